"""The leakage guard, nested subsets of the bitext, and subwords."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import LARGEST_SEED, Config, DistillConfig, ExecutorConfig, RunConfig, validated
from harness.core.data import Bitext, HeldOut
from harness.core.errors import HarnessError
from harness.distill.data.bitext import join_bitexts, subset
from harness.distill.data.leakage import GuardedBitext, comparison_form, guard
from harness.distill.data.monolingual import select_monolingual_text
from harness.distill.data.subwords import END, START, tokenize, train_tokenizer
from tests.support.students import pairs


def test_guard_drops_by_image_id_and_counts() -> None:
    guarded = guard(pairs(10), HeldOut(frozenset({"img3", "img7", "other"}), frozenset()))
    assert (guarded.offered, guarded.dropped, len(guarded.bitext)) == (10, 2, 8)
    assert not {"img3", "img7"} & set(guarded.bitext.image_ids)


@pytest.mark.parametrize("ids", [False, True])
def test_guard_drops_by_either_sentence_whether_or_not_a_pair_has_an_id(ids: bool) -> None:
    given = pairs(10, ids)
    own = next(text for text in given.foreign if given.foreign.count(text) == 1)
    row = given.foreign.index(own)
    english = f"SENTENCE number {(row + 1) % 10}"
    held_out = HeldOut(frozenset({"img3"} - {f"img{row}"}), frozenset({english, "..."}), frozenset({f"{own.upper()} !", ""}))
    guarded = guard(given, held_out)
    lost = {row, (row + 1) % 10, *([3] if ids else [])}
    assert [place - 1 for place in guarded.bitext.places] == sorted({*range(10)} - lost)
    assert (guarded.offered, guarded.dropped) == (10, len(lost))
    assert "by English sentence" in guarded.bitext.notes[-1]
    assert "by de sentence" in guarded.bitext.notes[-1]


def test_guard_says_how_many_each_reason_dropped() -> None:
    given = Bitext("sw", "own", "unstated", ("a", "b", "c", "d", "e"), ("v", "w", "x", "y", "z"), ("1", "2", "3", "", ""))
    held_out = HeldOut(frozenset({"1"}), frozenset({"A", "B"}), frozenset({"W", "Y"}))
    guarded = guard(given, held_out)
    assert guarded.bitext.english == ("c", "e")
    note = "the leakage guard dropped 3 pairs of own (sw): 1 by image id, 1 by English sentence, 1 by sw sentence"
    assert guarded.bitext.notes == (note,)
    assert guard(given, HeldOut(frozenset({"1"}), frozenset())).bitext.notes == ()


def test_guard_ignores_empty_sentences() -> None:
    given = Bitext("sw", "own", "unstated", ("", "..."), ("!", ""), ("", ""))
    assert guard(given, HeldOut(frozenset(), frozenset({"", "?"}), frozenset({"", "."}))).dropped == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Two dogs ,  running .", "two dogs, running", True),
        ("A man doesn't run", "a man does n't run .", True),
        ("一只狗在草地上跑。", "一 只 狗 在 草地 上 跑", True),
        ("ＡＢＣ dog", "abc dog", True),
        ("लड़का खेल रहा है", "लड़की खेल रही है", False),
        ("two dogs", "two dog s and", False),
    ],
)
def test_sentences_are_compared_without_case_punctuation_and_spaces(one: str, other: str, same: bool) -> None:
    assert (comparison_form(one) == comparison_form(other)) == same


def test_guard_can_refuse() -> None:
    with pytest.raises(HarnessError, match=r"1 of 10 pairs .* belong to evaluation images \(1 by image id\)"):
        guard(pairs(10), HeldOut(frozenset({"img3"}), frozenset()), refuse=True)


def test_guard_refuses_to_leave_nothing() -> None:
    with pytest.raises(HarnessError, match="no pair"):
        guard(pairs(1), HeldOut(frozenset({"img0"}), frozenset()))


@given(small=st.integers(2, 50), large=st.integers(2, 50), seed=st.integers(0, 99))
def test_smaller_subsets_lie_inside_larger_ones(small: int, large: int, seed: int) -> None:
    bitext = pairs(50)
    small, large = sorted((small, large))
    assert subset(bitext, small, seed).english == subset(bitext, large, seed).english[:small]


def test_more_pairs_than_there_are_is_an_error() -> None:
    with pytest.raises(HarnessError, match=r"--pairs 51 requested, but test has 50 usable pairs"):
        subset(pairs(50), 51, seed=0)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *((DistillConfig, option) for option in ("vocabulary", "batch", "steps", "seed")),
        (RunConfig, "resamples"),
        (ExecutorConfig, "workers"),
    ],
)
def test_a_size_that_no_memory_holds_is_refused(kind: type[Config], option: str) -> None:
    with pytest.raises(HarnessError, match=rf"^--{option} {10**24}: Input should be less than or equal to \d+$"):
        validated(kind, **{option: 10**24, "lang": "de"} if kind is RunConfig else {option: 10**24})


@pytest.mark.parametrize("size", [50, 10**24])
def test_sizes_that_the_pairs_bound_are_refused_by_them(size: int) -> None:
    with pytest.raises(HarnessError, match="--held-out"):
        join_bitexts([pairs(40)], size)
    with pytest.raises(HarnessError, match="--pairs"):
        subset(pairs(40), size, 0)
    with pytest.raises(HarnessError, match="--unpaired"):
        select_monolingual_text([GuardedBitext(pairs(40), 40, 0)], size, None, 0)


def test_the_largest_vocabulary_takes_no_more_than_its_texts_have() -> None:
    assert train_tokenizer(pairs(50).foreign, 1_000_000).get_vocab_size() < 100
    torch.manual_seed(LARGEST_SEED)
    np.random.default_rng([LARGEST_SEED, 1])


def test_tokens_are_framed_and_cut_texts_keep_their_end() -> None:
    tokenizer = train_tokenizer(pairs(50).foreign, 200)
    start, end = (tokenizer.token_to_id(name) for name in (START, END))
    rows = tokenize(tokenizer, ["ein hund", "ein hund läuft im schnee die frau spielt gitarre", ""], 5)
    assert all(row[0] == start and row[-1] == end for row in rows)
    assert [len(row) for row in rows] == [4, 5, 2]


def test_an_apostrophe_stays_inside_its_word() -> None:
    tokenizer = train_tokenizer(["p'acha p'acha p'acha , p'acha"] * 5, 100)
    assert "▁p'acha" in tokenizer.encode("p'acha").tokens


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = pairs(200).foreign
    assert train_tokenizer(texts, 120).to_str() == train_tokenizer(texts, 120).to_str()


def test_languages_that_share_a_tower_hold_out_as_many_pairs_each() -> None:
    parts = [replace(pairs(20), lang=lang) for lang in ("de", "fr")]
    whole = join_bitexts(parts, 7)
    assert (whole.lang, len(whole)) == ("de,fr", 40)
    assert sorted(whole.english) == sorted(parts[0].english + parts[1].english)
    assert [whole.english[33:].count(text) for text in parts[0].english[-4:]] == [1, 2, 2, 2]
    with pytest.raises(HarnessError, match="--held-out 39 of the 40 remaining pairs leaves nothing to train on"):
        join_bitexts(parts, 39)
