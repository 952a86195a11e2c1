"""The scorer of entities: the formula written plainly, ranks of a re-ranked list, leaks that are found, chunkers, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.data import Floats, Ints, Language
from harness.core.errors import HarnessError
from harness.retrieval.entity_reranking import (
    CaptionPhrases,
    Doubles,
    RegionGallery,
    ScoreImages,
    check_blind,
    make_image_scorer,
    rerank,
    split_rows,
)
from harness.retrieval.phrases import chunk_phrases
from harness.retrieval.ranking import TOLERANCE, rank
from harness.tasks.entities.chunking import simple_chunker
from tests.support.command_line import SMALL_RUN, harness

ENGLISH = Language("en", "English", "Latn", 5, ())


def problem(seed: int, images: int = 7, captions: int = 12, ties: bool = False) -> tuple[CaptionPhrases, RegionGallery, Ints]:
    """Random embeddings; some images have no region and some captions no phrase."""
    draw = np.random.default_rng(seed)

    def rows(count: int) -> Floats:
        values = draw.integers(0, 2, (count, 4)) if ties else draw.standard_normal((count, 4))
        return values.astype(np.float32)

    gallery = RegionGallery(rows(images), tuple(rows(int(draw.integers(0, 5))) for _ in range(images)))
    asked = CaptionPhrases(rows(captions), tuple(rows(int(draw.integers(0, 4))) for _ in range(captions)))
    return asked, gallery, np.concatenate([np.arange(images), draw.integers(0, images, captions - images)])


def cosine(a: Doubles, b: Doubles) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def plainly(captions: CaptionPhrases, gallery: RegionGallery, caption: int, image: int) -> float:
    """v' = v + sum_k s_k v_k, and its cosine with the caption."""
    composed = gallery.images[image].astype(np.float64)
    for phrase in captions.phrases[caption].astype(np.float64):
        pairs = [(cosine(phrase, region), region) for region in gallery.regions[image].astype(np.float64)]
        if pairs:
            strength = max(each for each, _ in pairs)
            region = next(region for each, region in pairs if each >= strength - TOLERANCE)
            composed = composed + strength * region
    return cosine(captions.texts[caption].astype(np.float64), composed)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_the_formula(seed: int) -> None:
    captions, gallery, _ = problem(seed)
    score = make_image_scorer(captions, gallery)
    some = np.array([6, 0, 3])
    for caption in range(len(captions.texts)):
        expected = [plainly(captions, gallery, caption, int(image)) for image in some]
        assert score(caption, some) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("first", [0, 1, 3])
def test_ranks_are_those_of_the_lists_sorted_anew(seed: int, first: int) -> None:
    captions, gallery, owner = problem(seed)
    found, before = rerank(captions, gallery, owner, first), rank(gallery.images, captions.texts, owner)
    anew = np.array([[plainly(captions, gallery, q, i) for i in range(7)] for q in range(12)])
    plain = np.array([[cosine(q, i) for i in gallery.images.astype(float)] for q in captions.texts.astype(float)])
    for caption, image in enumerate(owner):
        if before.t2i[caption] > (first or 7):
            assert found.t2i[caption] == before.t2i[caption]
            continue
        leading = np.argsort(-plain[caption])[: first or 7]
        assert found.t2i[caption] == 1 + sum(anew[caption, i] >= anew[caption, image] for i in leading if i != image)
    for image in range(7):
        if before.i2t[image] > (first or 12):
            assert found.i2t[image] == before.i2t[image]
            continue
        leading = np.argsort(-plain[:, image])[: first or 12]
        best = max(anew[q, image] for q in leading if owner[q] == image)
        assert found.i2t[image] == 1 + sum(anew[q, image] >= best for q in leading if owner[q] != image)


@pytest.mark.parametrize("seed", range(10))
def test_without_phrases_nothing_changes(seed: int) -> None:
    captions, gallery, owner = problem(seed)
    silent = CaptionPhrases(captions.texts, tuple(phrases[:0] for phrases in captions.phrases))
    found, plain = rerank(silent, gallery, owner, 0), rank(gallery.images, captions.texts, owner)
    assert (found.t2i == plain.t2i).all()
    assert (found.i2t == plain.i2t).all()


@pytest.mark.parametrize("seed", range(20))
def test_ties_count_against_the_scorer(seed: int) -> None:
    captions, gallery, owner = problem(seed, ties=True)
    found = rerank(captions, gallery, owner, 0)
    anew = np.array([[plainly(captions, gallery, q, i) for i in range(7)] for q in range(12)])
    expected = [1 + int((anew[q] >= anew[q, owner[q]] - TOLERANCE).sum() - 1) for q in range(12)]
    assert found.t2i.tolist() == expected


def test_images_that_all_look_alike_are_told_apart_by_nobody() -> None:
    captions, gallery, owner = problem(0)
    alike = RegionGallery(np.repeat(gallery.images[:1], 7, 0), (gallery.regions[1],) * 7)
    found = rerank(captions, alike, owner, 0)
    assert (found.t2i == 7).all()


# leaks


def test_the_scorer_is_blind_to_which_image_is_the_right_one() -> None:
    captions, gallery, _ = problem(4)
    check_blind(lambda those: make_image_scorer(captions, those), gallery, len(captions.texts))


def planted(captions: CaptionPhrases, owner: Ints, leak: str) -> object:
    """A maker of scorers that know which image is the right one, and use it."""

    def make(gallery: RegionGallery) -> ScoreImages:
        honest = make_image_scorer(captions, gallery)

        def score(caption: int, images: Ints) -> Doubles:
            scores = honest(caption, images)
            right = images == owner[caption]
            if leak == "a bonus":
                return scores + 0.1 * right
            # The annotated boxes that the caption's own phrases mean, which no other image has for this caption.
            mine = gallery.regions[owner[caption]]
            kept = (*gallery.regions[: owner[caption]], mine[:1], *gallery.regions[owner[caption] + 1 :])
            return np.where(right, make_image_scorer(captions, RegionGallery(gallery.images, kept))(caption, images), scores)

        return score

    return make


@pytest.mark.parametrize("leak", ["a bonus", "boxes chosen by the caption"])
def test_a_planted_leak_is_found(leak: str) -> None:
    captions, gallery, owner = problem(4)
    with pytest.raises(HarnessError, match=r"the scorer leaks: \d+ of 7 images score otherwise under caption \d+"):
        check_blind(planted(captions, owner, leak), gallery, len(captions.texts))  # type: ignore[arg-type]


def test_rows_are_split_by_count() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    parts = split_rows(rows, [2, 0, 3])
    assert [part.tolist() for part in parts] == [[[0, 1], [2, 3]], [], [[4, 5], [6, 7], [8, 9]]]


# phrases


@pytest.mark.parametrize(
    ("text", "lang", "script", "phrases"),
    [
        ("A man in a red shirt, with two dogs.", "en", "Latn", ("man", "red shirt", "two dogs")),
        ("Ein Junge mit rotem Hut steht neben einem Pferd.", "de", "Latn", ("Junge", "rotem Hut steht", "Pferd")),
        ("Un homme joue de l'accordéon.", "fr", "Latn", ("homme joue", "accordéon")),
        ("Mwanamke na mbwa mweusi", "sw", "Latn", ("Mwanamke", "mbwa mweusi")),
        ("赤い帽子の男が馬に乗る。", "ja", "Jpan", ("赤", "帽子の男", "馬", "乗")),
        ("一个男人在街上骑马。", "zh", "Hans", ("一个男人", "街", "骑马")),
        ("Два пса бегут", "ru", "Cyrl", ("Два пса бегут",)),
        ("", "en", "Latn", ()),
        (" .,!", "en", "Latn", ()),
    ],
)
def test_phrases_by_the_rules_of_the_script(text: str, lang: str, script: str, phrases: tuple[str, ...]) -> None:
    ((*spans,),) = simple_chunker("")([text], Language(lang, lang, script, 0, ()))
    assert tuple(text[start:end] for start, end in spans) == phrases


@given(st.text(), st.sampled_from(["Latn", "Jpan", "Hans", "Thai", "Arab"]), st.sampled_from(["en", "fr", "xx"]))
def test_phrases_stand_in_the_caption_in_order(text: str, script: str, lang: str) -> None:
    at = 0
    ((*spans,),) = simple_chunker("")([text], Language(lang, lang, script, 0, ()))
    for start, end in spans:
        assert at <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end]
        at = end


def test_an_unknown_chunker_is_named() -> None:
    with pytest.raises(HarnessError, match="no phrase chunker is called 'simpel': did you mean simple"):
        chunk_phrases("simpel", ["A dog"], ENGLISH)
    assert chunk_phrases("simple", ["A dog"], ENGLISH) == [((2, 5),)]


# a run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
def test_a_run_reports_the_scorer_beside_the_plain_one(store: Path) -> None:
    words = ("run", "--lang", "en", "--split", "val", *SMALL_RUN)
    plain = harness(*words, store=store)
    assert plain.returncode == 0, plain.stderr
    (cell,) = (store / "records").iterdir()
    done = harness(*words, "--scorer", "entities", store=store)
    assert done.returncode == 0, done.stderr
    assert "embeds images" not in done.stderr
    assert "English tower on English + entities − English tower on English = " in done.stdout
    assert "scorer: entities, first 10 sorted anew" in done.stdout
    found = {path.name: json.loads((path / "record.json").read_text()) for path in (store / "records").iterdir()}
    assert len(found) == 2
    assert found[cell.name]["scorer"] == "plain"
    (other,) = (record for name, record in found.items() if name != cell.name)
    assert other["regions"]["view"] == "crop"
    assert other["scores"]["t2i_r10"] == found[cell.name]["scores"]["t2i_r10"], "the first ten are the same ten"
    assert any("an oracle" in note for note in other["notes"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--task", "flickr30k-entities", "--scorer", "entities"), "--scorer entities is for retrieval"),
        (
            ("--scorer", "entities", "--candidates", "proposals"),
            "has no regions of these 150 images: looked for proposals",
        ),
        (("--rerank", "-1"), "--rerank -1: "),
        (("--scorer", "entities", "--chunker", "spicy"), "no phrase chunker is called 'spicy': did you mean spacy?"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_scored_is_said_in_one_line(words: tuple[str, ...], line: str, store: Path) -> None:
    done = harness("run", "--lang", "en", "--split", "val", *words, store=store)
    assert done.returncode == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
