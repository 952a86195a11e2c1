"""A retrieval tells what its queries are, what they are ranked against, and whether they are the English side of translations."""

from dataclasses import fields, replace

import numpy as np

from harness.core.data import Grounding, Listed, Retrieval, TextRetrieval, Unseen, english_side

GERMAN = Retrieval(
    task="made-up",
    lang="de",
    split="test",
    source="multi30k",
    kind="human translation",
    images=Unseen(("1", "2")),
    captions=("Ein Hund.", "Zwei Hunde."),
    caption_ids=("1#0", "2#0"),
    caption_images=np.array([0, 1]),
    english=("A dog.", "Two dogs."),
)
MEMBERS = {name: getattr(GERMAN, name) for name in (each.name for each in fields(GERMAN))}


def test_captions_are_ranked_against_images() -> None:
    assert (GERMAN.sought, GERMAN.unit, GERMAN.opens_pictures) == ("images", "captions", True)
    assert (GERMAN.gallery_size, GERMAN.document_count, GERMAN.headline) == (2, None, "R@1")
    assert GERMAN.cache_key_parts() == []


def test_phrases_are_ranked_against_regions() -> None:
    phrases = Grounding(**MEMBERS, targets=np.array([[0, 0, 1, 1]] * 2), target_captions=np.array([0, 1]))
    assert (phrases.sought, phrases.unit, phrases.opens_pictures) == ("regions", "phrases", True)
    assert (phrases.gallery_size, phrases.document_count) == (2, None)


def test_queries_are_ranked_against_documents() -> None:
    documents = Listed(("a", "b", "c"), ("A dog.", "Two dogs.", "A cat."))
    queries = TextRetrieval(
        **MEMBERS, documents=documents, relevant=({0: 1}, {1: 1}), barred=((), ()), measures=("MRR",), headline="MRR"
    )
    assert (queries.sought, queries.unit, queries.opens_pictures) == ("texts", "queries", False)
    assert (queries.gallery_size, queries.document_count, queries.headline) == (3, 3, "MRR")
    assert queries.cache_key_parts() == ["MRR", "MRR"]
    assert replace(queries, headline="R@1").cache_key_parts() == ["MRR", "R@1"]


def test_the_english_side_of_translations_is_known_by_its_source() -> None:
    english = GERMAN.in_english()
    assert (english.source, english.lang) == (english_side("multi30k"), "en")
    assert english.is_english_side
    assert not GERMAN.is_english_side
