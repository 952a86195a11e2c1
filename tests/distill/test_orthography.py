"""Spelling similarity of tokens: its effect on alignments, and the students initialized with it."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from harness.core.arms import spell_arm
from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.errors import HarnessError
from harness.core.option_use import check_options
from harness.core.protocols import Encoder
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.orthography import Spelling, bitext_spelling, dice, ngrams, token_ngrams
from harness.distill.teachers import check_teacher
from harness.records.towers import load_card
from tests.support.alignments import alignment
from tests.support.command_line import harness


def spelling(foreign: list[str], english: list[str], weight: float) -> Spelling:
    one, other = ({id_: frozenset(ngrams(word)) for id_, word in enumerate(words)} for words in (foreign, english))
    return Spelling(one, other, weight)


words = st.lists(st.text("abc", max_size=4), min_size=4, max_size=4)
kernels = st.lists(st.floats(0, 10), min_size=16, max_size=16).map(lambda entries: sparse.csr_array(np.reshape(entries, (4, 4))))


@given(words, words, kernels, st.floats(0.1, 100))
def test_nothing_is_lost_and_what_is_spelled_the_same_gains_most(
    foreign: list[str], english: list[str], kernel: Sparse, weight: float
) -> None:
    found, before = spelling(foreign, english, weight).strengthen(kernel).toarray(), kernel.toarray()
    for i, one in enumerate(foreign):
        for j, other in enumerate(english):
            most = before[i, j] * (1 + weight)
            assert before[i, j] <= found[i, j] <= most * (1 + 1e-12)
            if one == other and one:
                assert found[i, j] == pytest.approx(most)


@given(st.text("abcd", max_size=8), st.text("abcd", max_size=8))
def test_likeness_is_dice_of_two_and_three_letters(one: str, other: str) -> None:
    def plainly(word: str) -> set[str]:
        framed = f"<{word}>"
        return {framed[i:j] for i in range(len(framed)) for j in (i + 2, i + 3) if j <= len(framed)} if word else set()

    a, b = plainly(one), plainly(other)
    assert set(ngrams(one)) == a
    expected = 2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0
    assert dice(frozenset(a), frozenset(b)) == pytest.approx(expected)


def test_a_token_is_spelled_as_it_stands_most_often() -> None:
    texts, ids = ["Dog dog", "cat dog"], [(7, 3, 3, 8), (7, 1, 3, 8)]
    spans = [((0, 0), (0, 3), (3, 7), (0, 0)), ((0, 0), (0, 3), (3, 7), (0, 0))]
    found = token_ngrams(ids, texts, spans)
    assert {id_ for id_, ngrams_ in found.items() if ngrams_} == {1, 3}
    assert found[3] == frozenset(ngrams("dog"))
    assert found[1] == frozenset(ngrams("cat"))


@pytest.mark.parametrize("way", ["association", "ibm1", "ot-vocabulary", "ot-sentences"])
def test_spelling_tells_apart_what_always_stands_together(way: str) -> None:
    """Two words always occur together, and so do their translations. The pairs alone give each translation half of the weight."""
    foreign, english = [[0, 1], [2, 3]] * 5, [[0, 1], [2, 3]] * 5
    alike = spelling(["ana", "uno", "x", "y"], ["one", "ana", "v", "w"], 10.0)
    blind = alignment(foreign, english, (4, 4), way).toarray()
    seeing = alignment(foreign, english, (4, 4), way, spelling=alike).toarray()
    assert blind[0, 1] == pytest.approx(0.5)
    assert seeing[0, 1] > 0.9
    assert seeing[2:] == pytest.approx(blind[2:])


def test_a_teacher_that_cannot_tell_how_tokens_are_spelled_is_refused() -> None:
    methods = {name: lambda *_: None for name in ("encode_tokens", "donate_layers")}
    mute = cast(Encoder, SimpleNamespace(name="mute", **methods))
    config = DistillConfig(init="ot-sentences", spelling=10)
    with pytest.raises(
        HarnessError, match=r"mute does not give the character spans of its tokens \(locate_tokens\), and --spelling"
    ):
        check_teacher(config, mute)


def test_a_teacher_that_tells_of_other_tokens_than_it_reads_is_refused() -> None:
    bitext = Bitext("xx", "test", "human translation", ("a b",), ("c d",), ("",))
    both = ((0, 1), (2, 3))
    assert bitext_spelling(bitext, ([(0, 1)], [(0, 1)]), ([both], [both]), 10).english[1] == frozenset(ngrams("b"))
    with pytest.raises(HarnessError, match=r"spans \(locate_tokens\) and token ids"):
        bitext_spelling(bitext, ([(0, 1)], [(0, 1, 2)]), ([both], [both]), 10)


@pytest.mark.parametrize("init", ["random", "scratch", "hf:here"])
def test_spelling_needs_an_alignment(init: str) -> None:
    with pytest.raises(HarnessError, match=f"--spelling 10.0 has no use with {spell_arm('kd-mse', init)}: --init association"):
        check_options(DistillConfig(init=init, spelling=10), ["kd-mse"])


def test_a_tower_is_made_by_spelling_and_says_so(tmp_path: Path) -> None:
    options = ("distill", "--lang", "de", "--pairs", "100", "--init", "ot-sentences", "--objective", "none")
    made = [harness(*options, *more, store=tmp_path) for more in ((), ("--spelling", "10"))]
    assert all(done.returncode == 0 for done in made), [done.stderr for done in made]
    cards = [load_card(folder) for folder in (tmp_path / "towers").iterdir()]
    assert Counter(card.config.spelling for card in cards) == {0: 1, 10: 1}
    weights = [(folder / "tower.safetensors").read_bytes() for folder in (tmp_path / "towers").iterdir()]
    assert weights[0] != weights[1]
