"""Rendering that all pages share: templates with everything escaped, sanitized lines of text, and files for a web server."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.storage.store import new_file

TEMPLATES = Path(__file__).parent / "templates"
NAME_LENGTH = 160


def sanitize_line(text: str, longest: int = NAME_LENGTH) -> str:
    """Return untrusted text as one line of at most `longest` characters, with control and direction marks replaced.

    >>> sanitize_line("a\\u202eb\\n c" + "d" * 999, 8)
    'a�b cdd…'
    """
    line = " ".join(text[: 4 * longest].split())
    line = "".join("�" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter for letter in line)
    return line if len(line) <= longest and len(text) <= 4 * longest else line[: longest - 1] + "…"


@cache
def template_environment() -> Environment:
    """Return the Jinja environment: it escapes every value and refuses undefined names."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "sort_keys": False}
    return made


def render_page(template: str, scripts: Sequence[str], images: str = "data:", **values: Any) -> str:
    """Render a template as one HTML file, with the style sheet and the scripts inline.

    The page's content security policy allows these scripts and this style sheet by their digests and nothing else, and loads
    nothing from a network. images: sources of pictures that the policy allows.
    """
    from markupsafe import Markup

    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; script-src '{content_hash(script)}'; style-src '{content_hash(style)}'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )
    inline = {"style": Markup(style), "script": Markup(script)}
    return template_environment().get_template(template).render(policy=policy, **inline, **values)


def content_hash(text: str) -> str:
    """Return the source expression that allows an inline script or style sheet in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown pipe table. The cells must be escaped already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_web_file(path: Path, text: str) -> None:
    """Write a file atomically, with permissions that let a web server read it."""
    with new_file(path) as file:
        file.write_text(text, encoding="utf-8", newline="")
        file.chmod(0o644)
