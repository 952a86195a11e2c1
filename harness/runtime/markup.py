"""Escaping of untrusted text: one function for each format. Control characters, markup and formulas are shown, not executed."""

from __future__ import annotations

import re

# Control characters (C0 and C1), bidirectional controls, line separators, invisible characters, and surrogates, which stand for
# undecodable bytes in file names.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")
# Numbers are not formulas.
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
# East Asian spreadsheets read the full-width signs too. Where semicolons separate cells, a formula may begin after one.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
_LATEX |= {"−": "$-$", "→": r"$\to$", "·": r"$\cdot$", "—": "---", "…": r"\ldots{}"}


def escape_controls(text: str, kept: str = "") -> str:
    r"""Return a text on one line with control and direction characters escaped, except for those in `kept`.

    >>> print(escape_controls("a\x1b]52;c;x\x07b\n\u202e"))
    a\x1b]52;c;x\x07b\n\u202e
    """
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


def escape_json(text: str) -> str:
    r"""Return equivalent JSON whose strings have these characters escaped.

    >>> escape_json('{"a": "\u202e"}')
    '{"a": "\\u202e"}'
    """
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] in "\t\n\r" else f"\\u{ord(found[0]):04x}", text)


def escape_markdown(text: str) -> str:
    r"""Return a text that Markdown shows literally: it ends no table cell and forms no HTML or link, bare addresses included.

    >>> print(escape_markdown("a|b <i>*x* https://x"))
    a\|b \<i\>\*x\* https\://x
    """
    return re.sub(r"([\\`*_{}<>\[\]|#&~!$]|:(?=//)|(?<=www)\.|@(?=\w[\w-]*\.\w))", r"\\\1", escape_controls(text))


def escape_latex(text: str) -> str:
    r"""Return a text that LaTeX prints literally.

    >>> print(escape_latex("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(_LATEX.get(letter, letter) for letter in escape_controls(text))


def escape_formula(value: object) -> object:
    """Return a cell that a spreadsheet does not read as a formula; numbers are unchanged.

    >>> escape_formula("=1+1"), escape_formula("-1.8"), escape_formula(-1.5)
    ("'=1+1", '-1.8', -1.5)
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", escape_controls(value))
