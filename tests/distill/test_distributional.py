"""Alignment by monolingual text: distributional vectors, the plan between them, and the sources of the texts."""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from harness.core.data import Bitext, Doubles, HeldOut
from harness.core.errors import HarnessError
from harness.distill.alignment import distributional as contexts
from harness.distill.alignment.distributional import (
    SMALLEST_COUNT,
    WINDOW,
    DistributionalContext,
    distributional_vectors,
    neighbour_counts,
)
from harness.distill.data.bitext import NO_TEXT, subset
from harness.distill.data.leakage import GuardedBitext, bitext_keys, guarded_texts, leakage_keys, seen_hashes
from harness.distill.data.monolingual import select_monolingual_text
from harness.readers.bitext import load_monolingual_texts
from harness.records.towers import load_card
from harness.tasks.flickr30k import Flickr30k
from tests.support.alignments import alignment
from tests.support.command_line import harness

WORDS, PAIRS = 120, 30
RENAMED = np.random.default_rng(9).permutation(WORDS)


@cache
def language() -> Doubles:
    """Return the probability that one word follows another. Each word has a few likely successors. Some words are frequent."""
    rng = np.random.default_rng(0)
    likes = rng.gamma(0.1, size=(WORDS, WORDS)) / np.arange(3, WORDS + 3)
    return likes / likes.sum(1, keepdims=True)


@cache
def told(seed: int, count: int = 5000) -> tuple[tuple[int, ...], ...]:
    """Return random sentences of the language."""
    rng, up_to = np.random.default_rng(seed), language().cumsum(1)
    words = [rng.integers(WORDS, size=count)]
    for _ in range(9):
        words.append((up_to[words[-1]] < rng.random((count, 1))).sum(1).clip(max=WORDS - 1))
    return tuple(map(tuple, np.stack(words, 1).tolist()))


def renamed(texts: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Return the sentences in the foreign language, in which word i is called RENAMED[i]."""
    return [tuple(int(RENAMED[word]) for word in text) for text in texts]


def right(weights: sparse.csr_array) -> Doubles:
    """Return for each English word whether the weights of its foreign name are largest at this word."""
    return weights.toarray()[RENAMED].argmax(1) == np.arange(WORDS)


@pytest.fixture(autouse=True)
def few_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the dimensions to a number that a small vocabulary can fill."""
    monkeypatch.setattr(contexts, "DIMENSIONS", 30)


def bitext(pairs: int, images: bool = True) -> GuardedBitext:
    english, foreign = (tuple(f"{side} {row}" for row in range(pairs)) for side in ("english", "foreign"))
    ids = tuple(str(row) if images else "" for row in range(pairs))
    return GuardedBitext(Bitext("xx", "test", "human translation", english, foreign, ids), pairs, 0)


def test_neighbours_are_counted_one_by_one() -> None:
    texts, expected = told(3, 40), np.zeros((WORDS, WORDS))
    for text in texts:
        for place, word in enumerate(text):
            for other in range(max(0, place - WINDOW), min(len(text), place + WINDOW + 1)):
                if other != place:
                    expected[word, text[other]] += 1 / abs(other - place)
    np.testing.assert_allclose(neighbour_counts(texts, WORDS).toarray(), expected, rtol=1e-12)


def test_vectors_keep_what_positive_mutual_information_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many dimensions as tokens, U S U' equals the matrix up to the signs of its eigenvalues."""
    monkeypatch.setattr(contexts, "DIMENSIONS", WORDS)
    texts, size = told(4, 200), WORDS + 1
    found = distributional_vectors(texts, size)
    stands = np.isin(np.arange(size), np.concatenate(texts))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), stands, atol=1e-12)
    together = neighbour_counts(texts, size).toarray()
    smoothed = together.sum(0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(together * smoothed.sum() / np.outer(together.sum(1), smoothed))
    matrix = np.where(together > 0, np.maximum(pmi, 0), 0)
    left, values, _ = np.linalg.svd(matrix)
    expected = left * np.sqrt(values)
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(found @ found.T, (expected @ expected.T) * np.outer(stands, stands), atol=1e-3)


def test_neither_another_run_nor_the_order_of_texts_changes_a_bit() -> None:
    texts = told(5, 300)
    assert np.array_equal(distributional_vectors(texts, WORDS), distributional_vectors(texts[::-1], WORDS))


def test_a_few_known_words_and_two_texts_of_which_none_translates_the_other_tell_the_rest() -> None:
    company = DistributionalContext(renamed(told(1)), told(2), (WORDS, WORDS))
    anchors = np.arange(40)
    known = sparse.csr_array(sparse.coo_array((np.ones(40), (RENAMED[anchors], anchors)), shape=(WORDS, WORDS)))
    carried = company.transport_plan(known)
    assert right(carried)[40:].mean() > 0.8
    np.testing.assert_allclose(carried.max(axis=1).toarray()[carried.max(axis=1).toarray() > 0], 1)


def test_rare_tokens_are_left_to_the_pairs() -> None:
    rare = (WORDS,) * (SMALLEST_COUNT - 1)
    company = DistributionalContext([*renamed(told(1)), rare], [*told(2), rare], (WORDS + 1, WORDS + 1))
    carried = company.transport_plan(sparse.eye_array(WORDS + 1, format="csr"))
    assert not carried[[WORDS]].nnz
    assert not carried[:, [WORDS]].nnz


def test_texts_in_which_every_token_is_rare_say_nothing() -> None:
    pairs = told(6, 2)
    foreign = renamed(pairs)
    company = DistributionalContext(foreign, pairs, (WORDS, WORDS))
    without = alignment(foreign, pairs, (WORDS, WORDS), "ot-sentences")
    assert not company.transport_plan(without).nnz
    found = alignment(foreign, pairs, (WORDS, WORDS), "ot-contexts", company)
    np.testing.assert_allclose(found.toarray(), without.toarray(), atol=1e-9)


def test_texts_find_what_few_pairs_leave_open() -> None:
    pairs = told(6, PAIRS)
    foreign = renamed(pairs)
    company = DistributionalContext([*foreign, *renamed(told(1))], [*pairs, *told(2)], (WORDS, WORDS))
    without = alignment(foreign, pairs, (WORDS, WORDS), "ot-sentences")
    with_text = alignment(foreign, pairs, (WORDS, WORDS), "ot-contexts", company)
    in_no_pair = ~np.isin(np.arange(WORDS), np.concatenate(pairs))
    assert in_no_pair.sum() > 20
    assert not right(without)[in_no_pair].any()
    assert right(with_text)[in_no_pair].mean() > 0.8
    assert right(with_text).mean() > right(without).mean() + 0.2
    np.testing.assert_allclose(with_text.sum(1), 1)


def test_no_sentence_is_there_with_its_translation_or_in_the_pairs() -> None:
    whole = bitext(100)
    text, used = select_monolingual_text([whole], 30, 40, seed=3), subset(whole.bitext, 40, 3)
    of_english, of_foreign = ({text.split()[1] for text in side} for side in (text.english, text.foreign))
    of_pairs = {english.split()[1] for english in used.english}
    assert len(of_english) == len(of_foreign) == 30
    for one, other in pairwise((of_english, of_foreign, of_pairs, of_english)):
        assert not one & other
    assert {mark for mark in text.marks if mark.startswith("image")} == {f"image {row}" for row in of_english | of_foreign}


def test_the_text_is_the_same_whatever_the_subset() -> None:
    whole = bitext(100)
    assert select_monolingual_text([whole], 30, 40, seed=3) == select_monolingual_text([whole], 30, 2, seed=3)
    assert select_monolingual_text([whole], 30, 40, seed=3) != select_monolingual_text([whole], 30, 40, seed=4)
    assert select_monolingual_text([whole], 0, None, seed=3) == NO_TEXT


@pytest.mark.parametrize(("pairs", "used"), [(41, "41"), (None, "100")])
def test_text_needs_pairs_that_are_not_used(pairs: int | None, used: str) -> None:
    with pytest.raises(HarnessError, match=f"--unpaired 30 takes one side each of 60 pairs besides the {used} that are used"):
        select_monolingual_text([bitext(100)], 30, pairs, seed=0)


@pytest.mark.parametrize("images", [True, False])
def test_a_tower_has_seen_the_text_as_well(images: bool) -> None:
    whole = bitext(100, images)
    known = seen_hashes(subset(whole.bitext, 40, 0), select_monolingual_text([whole], 30, 40, 0))
    each = 3 if images else 2
    assert len(known) == each * 100
    assert len(seen_hashes(subset(whole.bitext, 40, 0), NO_TEXT)) == each * 40
    assert set(bitext_keys(whole.bitext)) == set(select_monolingual_text([whole], 50, 0, 0).marks)


def test_texts_of_ones_own_are_drawn_by_the_seed_and_leave_the_pairs_alone() -> None:
    sides = tuple(f"own english {row}" for row in range(50)), tuple(f"own foreign {row}" for row in range(20))
    whole = replace(bitext(100), texts=sides)
    text = select_monolingual_text([whole], 20, None, seed=3)
    assert set(text.foreign) == set(sides[1])
    assert len(set(text.english)) == 20
    assert set(text.english) < set(sides[0])
    assert text != select_monolingual_text([whole], 20, None, seed=4)
    assert set(text.marks) == set(leakage_keys(english=text.english, foreign=text.foreign))
    with pytest.raises(HarnessError, match="--unpaired 21 requested, but a text for xx has 20 sentences"):
        select_monolingual_text([whole], 21, None, seed=3)


def test_texts_are_kept_without_the_captions_of_evaluation_images() -> None:
    held_out = HeldOut(frozenset({"7"}), frozenset({"Two dogs ,  running ."}), frozenset({"Dos gossos."}))
    texts = ["A cat.", "two dogs, running"], ["Un gat.", "DOS GOSSOS"]
    assert guarded_texts(*texts, held_out) == (("A cat.",), ("Un gat.",))


def test_texts_come_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("A cat.\n\n A dog. \n")
    with gzip.open(tmp_path / "cym.txt.gz", "wt") as file:
        file.write("Mae cath.\n")
    welsh = Flickr30k().language("cy")
    assert load_monolingual_texts(tmp_path, welsh) == (["A cat.", "A dog."], ["Mae cath."])
    (tmp_path / "cy.txt").write_text("\n")
    with pytest.raises(HarnessError, match=r"cy\.txt has no sentence: expected one sentence a line"):
        load_monolingual_texts(tmp_path, welsh)
    with pytest.raises(HarnessError, match=r"de\.txt does not exist: --text takes a folder with en\.txt and de\.txt"):
        load_monolingual_texts(tmp_path, Flickr30k().language("de"))


def test_a_tower_is_made_of_text_and_says_so(tmp_path: Path) -> None:
    options = ("--pairs", "100", "--init", "ot-contexts", "--objective", "none", "--unpaired")
    made = [harness("distill", "--lang", "cy", *options, count, store=tmp_path) for count in ("0", "500", "800")]
    assert all(done.returncode == 0 for done in made), [done.stderr for done in made]
    cards = [load_card(folder) for folder in (tmp_path / "towers").iterdir()]
    assert {card.config.unpaired for card in cards} == {0, 500, 800}
    refused = harness("distill", "--lang", "cy", *options, "4000", store=tmp_path)
    assert refused.returncode == 1
    assert "--unpaired 4,000 takes one side each of 8,000 pairs" in refused.stderr
    assert "or give texts with --text" in refused.stderr
    (tmp_path / "en.txt").write_text("A red ball lies on the grass.\nA dog runs.\n" * 20)
    (tmp_path / "cy.txt").write_text("Mae pêl goch ar y glaswellt.\nMae ci yn rhedeg.\n" * 20)
    given = harness("distill", "--lang", "cy", *options, "40", "--text", str(tmp_path), store=tmp_path)
    assert given.returncode == 0, given.stderr
    assert len(list((tmp_path / "towers").iterdir())) == 4
