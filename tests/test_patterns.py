"""No regular expression in the source takes exponential time on any text. The tests find and analyse all of them.

A pattern is turned into its position automaton (Glushkov 1961): a state a character, an edge where one may follow the other.
Backtracking takes exponential time where some text leads from a state back to itself in two ways (Weideman et al. 2016).
"""

from __future__ import annotations

import ast
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.core.errors import HarnessError
from harness.tasks.caption_sources import catalogue
from harness.tasks.entities.corpus import parse_sentence, read_annotation, read_sentences
from harness.tasks.readers.captions import read_captions

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "encoders", "examples", "harness", "leaderboards", "tasks", "tests")
FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
ALPHABET = "".join(map(chr, range(128))) + "éßА中の。２\u00a0\u2028"
PARSER: Any = re._parser  # type: ignore[attr-defined]


class Part(NamedTuple):
    """A part of a pattern: whether it may be empty, and the number of ways in which it starts and ends at each position."""

    empty: bool
    first: Counter[int]
    last: Counter[int]


class Automaton:
    """The position automaton of a pattern. sets: the nodes of positions. follow: the number of ways one follows another."""

    def __init__(self, pattern: str | bytes) -> None:
        text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
        self.sets: list[frozenset[str]] = []
        self.follow: defaultdict[int, Counter[int]] = defaultdict(Counter)
        # The module `regex` has classes of Unicode, which are letters here, and sets in sets.
        self._sequence(PARSER.parse(re.sub(r"\\p\{[LM]\}", r"\\w", text).replace("[[", r"[\[")))

    def _sequence(self, nodes: Any) -> Part:
        whole = Part(True, Counter(), Counter())
        for node in nodes:
            whole = self._joined(whole, self._part(*node))
        return whole

    def _joined(self, left: Part, right: Part) -> Part:
        self._link(left.last, right.first)
        first = left.first + (right.first if left.empty else Counter())
        last = right.last + (left.last if right.empty else Counter())
        return Part(left.empty and right.empty, first, last)

    def _link(self, last: Counter[int], first: Counter[int]) -> None:
        for one, ways in last.items():
            for other, more in first.items():
                self.follow[one][other] += ways * more

    def _part(self, kind: Any, of: Any) -> Part:
        match str(kind):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return self._position(frozenset(char for char in ALPHABET if matches(kind, of, char)))
            case "GROUPREF":
                return self._position(frozenset(ALPHABET))
            case "BRANCH":
                parts = [self._sequence(branch) for branch in of[1]]
                first, last = (
                    sum((part.first for part in parts), Counter[int]()),
                    sum((part.last for part in parts), Counter[int]()),
                )
                return Part(any(part.empty for part in parts), first, last)
            case "SUBPATTERN":
                return self._sequence(of[-1])
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self._repeated(*of)
            case "AT" | "ASSERT" | "ASSERT_NOT":
                return Part(True, Counter(), Counter())
        raise AssertionError(f"teach this test what {kind} means")

    def _position(self, matched: frozenset[str]) -> Part:
        self.sets.append(matched)
        place = len(self.sets) - 1
        return Part(False, Counter([place]), Counter([place]))

    def _repeated(self, least: int, most: int, body: Any) -> Part:
        """Return enough copies of a repeat to detect ambiguity: two of each, followed by a loop or nested."""
        endless = most == PARSER.MAXREPEAT
        whole = Part(True, Counter(), Counter())
        if endless:
            part = self._sequence(body)
            self._link(part.last, part.first)
            whole = part if least else part._replace(empty=True)
        else:
            for _ in range(min(most - least, 2)):
                whole = self._joined(self._sequence(body), whole)._replace(empty=True)
        for _ in range(min(least - (1 if endless else 0), 2)):
            whole = self._joined(self._sequence(body), whole)
        return whole

    def is_exponential(self) -> bool:
        """Return whether some text leads from a position back to it in two ways."""
        return any(self._two_ways(start) for start in range(len(self.sets)))

    def _two_ways(self, start: int) -> bool:
        seen = {(start, start, False)}
        queue = deque(seen)
        while queue:
            one, other, apart = queue.popleft()
            for left, ways in self.follow[one].items():
                for right in self.follow[other]:
                    if not self.sets[left] & self.sets[right]:
                        continue
                    state = (left, right, apart or left != right or (one == other and ways > 1))
                    if state == (start, start, True):
                        return True
                    if state not in seen:
                        seen.add(state)
                        queue.append(state)
        return False


def matches(kind: Any, of: Any, char: str) -> bool:
    """Return whether a node of a parsed pattern matches a character. `.` matches all characters, whatever the flags."""
    match str(kind):
        case "LITERAL":
            return bool(ord(char) == of)
        case "NOT_LITERAL":
            return bool(ord(char) != of)
        case "ANY":
            return True
        case "RANGE":
            return bool(of[0] <= ord(char) <= of[1])
        case "CATEGORY":
            name = str(of).removeprefix("CATEGORY_")
            found = {"DIGIT": char.isdecimal(), "SPACE": char.isspace(), "WORD": char.isalnum() or char == "_"}
            return found[name.removeprefix("NOT_")] != name.startswith("NOT_")
        case "IN":
            negated = str(of[0][0]) == "NEGATE"
            return any(matches(*each, char) for each in of[negated:]) != negated
    raise AssertionError(f"teach this test what {kind} means")


def written(node: ast.expr) -> str | bytes | None:
    """Return the pattern in the source with 1 for each interpolation, or None if all of it is interpolated."""
    match node:
        case ast.Constant(value=str() | bytes() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in values)
        case ast.BinOp(left=left, right=right):
            sides = [written(left), written(right)]
            texts = [side.decode("latin-1") if isinstance(side, bytes) else side or "1" for side in sides]
            return None if sides == [None, None] else "".join(texts)
    return None


def patterns_of(path: Path) -> Iterator[tuple[int, str | bytes | None]]:
    """Yield line and pattern of every regular expression in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in FUNCTIONS and getattr(called.value, "id", "") in ("re", "regex"):
            yield node.lineno, written(node.args[0])
        for word in node.keywords:
            if word.arg == "pattern" and getattr(called, "id", "") in ("Field", "StringConstraints"):
                yield node.lineno, written(word.value)


FOUND = [
    pytest.param(pattern, id=f"{path.relative_to(ROOT).as_posix()}:{line}")
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    for line, pattern in patterns_of(path)
    if pattern is not None or "tests" not in path.parts
]


@pytest.mark.parametrize("pattern", FOUND)
def test_no_pattern_takes_exponential_time(pattern: str | bytes | None) -> None:
    assert pattern is not None, "write the pattern where it is used, so that it can be looked through"
    assert not Automaton(pattern).is_exponential()


def test_the_patterns_are_found() -> None:
    assert sum(param.id is not None and param.id.startswith("tasks/") for param in FOUND) >= 15
    assert {"[0-9]+", r"\[/EN#(?:/[a-z]+)"} & {param.values[0] for param in FOUND}


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(a*)*b", "(ab|a.)*c", r"(\w|x\d?)+$", "(a?b?)*c", "(a|ab|b)*c", "(?:a{1,3})*b", "(.*)*=", r"^(\s*a?\s*)*$"),
        r"(?:\d+:)?\[/EN#\d+(?:/[^\s\]]+)*\s([^\]]*)\]",
    ],
)
def test_an_exponential_pattern_is_seen(pattern: str) -> None:
    assert Automaton(pattern).is_exponential()


@pytest.mark.parametrize(
    "pattern", ["a+b+c", "(ab)+", "(a|b)*c", r"(?:/[a-z]+)+ x", "(a+b)+", "a{2,5}", "(a{3}b)*", r"(\S.{1,39}?)\1{3,}"]
)
def test_a_pattern_in_which_every_text_has_one_way_passes(pattern: str) -> None:
    assert not Automaton(pattern).is_exponential()


# what was found once


def test_readers_of_tags_take_no_time_over_texts_made_to_hang_them(tmp_path: Path) -> None:
    tags = ["[/EN#1" + "/a" * 41, "[/EN#1" + "/a" * 4_900, "[/EN#1/a x" * 950, "1" * 9_999, "[/EN#1/a" + " " * 9_000, "[" * 9_999]
    (tmp_path / "Sentences_jp_v2").mkdir()
    began = time.process_time()
    for number, tag in enumerate(tags):
        (tmp_path / "Sentences_jp_v2" / f"{number}.txt").write_text(tag)
    captions = read_captions(tmp_path, catalogue().sources["flickr30kent-jp"], "ja")
    assert captions is not None
    assert [row.text for row in captions.rows if row.image == "0"] == tags[:1]
    for tag in tags:
        with nullcontext() if tag.isdigit() else pytest.raises(ValueError, match="bracket outside any tag"):
            parse_sentence(tag)
    assert time.process_time() - began < 1


def test_a_tagged_sentence_of_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "31.txt"
    path.write_text("[/EN#1/a x] " * 200_000)
    with pytest.raises(HarnessError, match=r"31\.txt, line 1: the caption has 2,400,000 characters, expected at most 10,000"):
        read_sentences(path)


def test_comments_that_never_close_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "31.xml"
    size = "<size><width>9</width><height>9</height></size>"
    path.write_text(f"<annotation>{size}<object/><a><![CDATA[{'<!--' * 100_000}]]></a></annotation>")
    began = time.process_time()
    with pytest.raises(HarnessError, match=r"31\.xml, line 1: object 1: it has no name"):
        read_annotation(path)
    assert time.process_time() - began < 1
