"""Hubness against its definition over the whole score matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from harness.retrieval import cosines
from harness.retrieval.entity_reranking import CaptionPhrases, RegionGallery, rerank
from harness.retrieval.hubness import NEAREST, OccurrenceCounter, cosine_hubness, skewness
from harness.retrieval.ranking import rank_by_score


def occurrences(scores: Any) -> Any:
    """Return N_10 of each candidate. scores: (q, c). Ties go to the first candidate."""
    first = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
    return np.bincount(first.ravel(), minlength=scores.shape[1])


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), m=st.integers(1, 60), part=st.integers(1, 60), tied=st.booleans())
@settings(max_examples=80, deadline=None)
def test_captions_in_parts_count_as_all_at_once(seed: int, n: int, m: int, part: int, tied: bool) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 3, (m, n)) / 2 if tied else random.uniform(-1, 1, (m, n))
    counter = OccurrenceCounter(n)
    for start in range(0, m, part):
        counter.add(scores[start : start + part], scores[start : start + part])
    np.testing.assert_array_equal(counter.image_counts, occurrences(scores))
    found = counter.hubness()
    assert found["t2i"] == pytest.approx(skewness(occurrences(scores)))
    assert found["i2t"] == pytest.approx(skewness(occurrences(scores.T)))


def test_a_picture_among_the_best_of_every_caption_is_a_hub() -> None:
    random = np.random.default_rng(0)
    images, texts = (random.standard_normal((count, 16)).astype(np.float32) for count in (200, 600))
    before = cosine_hubness(images, texts + 1)["t2i"]
    images[0] = 1
    after = cosine_hubness(images, texts + 1)["t2i"]
    scores = (texts + 1) / np.linalg.norm(texts + 1, axis=1, keepdims=True)
    scores = scores @ (images / np.linalg.norm(images, axis=1, keepdims=True)).T
    assert after == pytest.approx(skew(occurrences(scores)), abs=1e-6)
    assert before < after


def test_an_encoder_with_one_output_favours_the_first_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties go to the first ones whatever rounding does, so that the stripes change nothing."""
    alike = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    whole = cosine_hubness(np.repeat(alike, 50, axis=0), np.repeat(alike, 70, axis=0))
    assert whole["t2i"] == pytest.approx(skew([70] * 10 + [0] * 40))
    monkeypatch.setattr(cosines, "STRIPE_BYTES", 8 * 50 * 3)
    assert cosine_hubness(np.repeat(alike, 50, axis=0), np.repeat(alike, 70, axis=0)) == whole


def test_other_scorers_show_their_scores() -> None:
    """Late interaction and entities pass on the scores that they rank by."""
    random = np.random.default_rng(2)
    table, owner = random.uniform(-1, 1, (60, 20)).astype(np.float32), np.arange(60) % 20
    counter = OccurrenceCounter(20)
    rank_by_score(
        lambda rows, columns: table[np.ix_(rows, columns)], owner, 20, chunk=4 * 20 * 7, observe=lambda of: counter.add(of, of)
    )
    np.testing.assert_array_equal(counter.image_counts, occurrences(table))

    images, texts = (random.standard_normal((count, 8)).astype(np.float32) for count in (20, 60))
    none = tuple(np.zeros((0, 8), np.float32) for _ in range(60))
    for first in (0, 3, 10, 15):
        counter = OccurrenceCounter(20)
        rerank(CaptionPhrases(texts, none), RegionGallery(images, none[:20]), owner, first, counter.add)
        assert counter.hubness() == pytest.approx(cosine_hubness(images, texts)), "without phrases the cosine decides"
