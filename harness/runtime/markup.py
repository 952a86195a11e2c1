"""Texts of others as text: one escaper for each place where they are shown. Whatever they hold is shown, and never obeyed."""

from __future__ import annotations

import re

# Control characters of both sets, marks that turn the direction of what follows, characters that end a line or are not seen, and
# halves of characters, as names of files have them that are not UTF-8.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")
# Numbers are no formulas, and stay numbers.
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
# The full-width signs count in spreadsheets of East Asia; where a semicolon parts cells, another one begins behind it.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
_LATEX |= {"−": "$-$", "→": r"$\to$", "·": r"$\cdot$", "—": "---", "…": r"\ldots{}"}


def escape_controls(text: str, kept: str = "") -> str:
    r"""A text with its control and direction characters written out, but for those in `kept`: one line, which obeys nothing.

    >>> print(escape_controls("a\x1b]52;c;x\x07b\n\u202e"))
    a\x1b]52;c;x\x07b\n\u202e
    """
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


def escape_json(text: str) -> str:
    r"""JSON whose strings hold none of those characters, and mean the same.

    >>> escape_json('{"a": "\u202e"}')
    '{"a": "\\u202e"}'
    """
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] in "\t\n\r" else f"\\u{ord(found[0]):04x}", text)


def escape_markdown(text: str) -> str:
    r"""A text that Markdown shows as it stands: no table's end, no HTML, no link, also where a bare address would be one.

    >>> print(escape_markdown("a|b <i>*x* https://x"))
    a\|b \<i\>\*x\* https\://x
    """
    return re.sub(r"([\\`*_{}<>\[\]|#&~!$]|:(?=//)|(?<=www)\.|@(?=\w[\w-]*\.\w))", r"\\\1", escape_controls(text))


def escape_latex(text: str) -> str:
    r"""A text that LaTeX prints as it stands.

    >>> print(escape_latex("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(_LATEX.get(letter, letter) for letter in escape_controls(text))


def escape_formula(value: object) -> object:
    """A cell that a spreadsheet does not take for a formula; numbers stay as they are.

    >>> escape_formula("=1+1"), escape_formula("-1.8"), escape_formula(-1.5)
    ("'=1+1", '-1.8', -1.5)
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", escape_controls(value))
