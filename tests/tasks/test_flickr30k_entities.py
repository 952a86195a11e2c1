"""Phrase grounding: facets and phrases of captions, regions and their views, ranks against a simple loop, and a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.core.data import Grounding, Place, Ranks, Regions
from harness.core.errors import HarnessError
from harness.records.files import load_measures, load_ranks, load_record
from harness.reporting.box_drawing import draw_boxes
from harness.retrieval.grounding import box_ious, ground
from harness.retrieval.ranking import MISSED, chance_of_hit
from harness.retrieval.regions import RegionViews, draw_view
from harness.statistics.breakdown import break_down, facet_values
from harness.statistics.measurement import Measurement
from harness.tasks.caption_sources import known_languages
from harness.tasks.entities.tags import caption_facets, caption_key, read_tags
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.flickr30k_entities import Flickr30kEntities
from harness.tasks.readers.captions import Caption
from harness.tasks.readers.pictures import Pictures
from tests.support.command_line import SMALL_RUN, harness
from tests.support.flickr30k_folders import write_lines

TASK = Flickr30kEntities()


def annotate(folder: Path, image: str, boxes: dict[int, tuple[int, int, int, int] | None]) -> None:
    """Write `Annotations/<image>.xml` for an 8 x 8 picture. A chain without a box is a scene. Boxes count from 0."""
    objects = []
    for chain, box in boxes.items():
        body = "<scene>1</scene><nobndbox>1</nobndbox>"
        if box:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
            body = f"<bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in sides)}</bndbox>"
        objects.append(f"<object><name>{chain}</name>{body}</object>")
    size = "<size><width>8</width><height>8</height><depth>3</depth></size>"
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / f"{image}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")


@pytest.fixture
def entities_folder(flickr30k_folder: Path) -> Path:
    """The small Flickr30k folder with tags and boxes of its test images in English and, for two of them, in German."""
    for image, chain in (("31", 10), ("32", 20), ("33", 30)):
        lines = [
            f"[/EN#{chain}/other Caption] {k} of [/EN#{chain + 1}/people/animals {image}] [/EN#0/notvisual .]" for k in (0, 1)
        ]
        write_lines(flickr30k_folder / "Sentences" / f"{image}.txt", lines)
        annotate(flickr30k_folder, image, {chain: (0, 0, 4, 8), chain + 1: (4, 0, 8, 8), chain + 2: (0, 0, 8, 8)})
    annotate(flickr30k_folder, "33", {30: (0, 0, 4, 8), 31: None})
    for image, chain in (("31", 10), ("33", 30)):
        line = f"[/EN#{chain}/other Bildtext] von [/EN#{chain + 1}/people/animals {image}] ."
        write_lines(flickr30k_folder / "Sentences_de" / f"{image}.txt", [line])
    return flickr30k_folder


# facets


def test_facets_have_types_entities_and_length(entities_folder: Path) -> None:
    loaded = Flickr30k().load(entities_folder, "en", "test")
    assert loaded.facets["entity-type"] == (("other", "people", "animals"),) * 6
    assert loaded.facets["entities"] == (("2",),) * 6
    assert loaded.facets["length"] == (("1-7",),) * 6
    assert loaded.facets["source"] == (("karpathy",),) * 6
    assert loaded.phrases == tuple(("Caption", image) for image in ("31", "31", "32", "32", "33", "33"))
    assert loaded.notes == ()


def test_a_caption_without_tags_is_untagged_and_counted(entities_folder: Path) -> None:
    loaded = Flickr30k().load(entities_folder, "de", "test")
    assert loaded.facets["entities"] == (("2",), ("untagged",), ("2",))
    assert loaded.phrases == (("Bildtext", "31"), None, ("Bildtext", "33"))
    assert loaded.in_english().phrases == (("Caption", "31"), ("Caption", "32"), ("Caption", "33"))
    assert loaded.in_english().facets == loaded.facets
    assert loaded.notes == ("1 of 3 captions have no tags: their entities are not known",)


def test_a_language_without_tags_has_the_entities_of_its_english_originals(entities_folder: Path) -> None:
    loaded = Flickr30k().load(entities_folder, "qu", "test")
    assert loaded.facets["entity-type"] == (("other", "people", "animals"),) * 3
    assert loaded.phrases == (None,) * 3
    assert loaded.notes == ("no tagged captions in qu: their entities are those of their English twins",)


def test_a_folder_without_tags_has_only_the_facets_of_the_text(flickr30k_folder: Path) -> None:
    loaded = Flickr30k().load(flickr30k_folder, "de", "test")
    assert set(loaded.facets) == {"length", "source"}
    assert loaded.notes == ()


def test_facets_are_not_part_of_the_digests(entities_folder: Path) -> None:
    with_tags = Flickr30k().load(entities_folder, "de", "test").texts_digest()
    for path in [*entities_folder.glob("Sentences*/*")]:
        path.unlink()
    assert Flickr30k().load(entities_folder, "de", "test").texts_digest() == with_tags


def test_captions_have_entities_and_boxes_or_those_of_their_english(entities_folder: Path) -> None:
    german, quechua = (Flickr30k().load(entities_folder, lang, "test") for lang in ("de", "qu"))
    places = Flickr30k().load_places(entities_folder, german)
    assert [[place.words for place in each] for each in places] == [["Bildtext", "31"], ["Caption", "32"], ["Bildtext", "33"]]
    assert places[0][1] == Place("31", ("people", "animals"), ((0.5, 0.0, 1.0, 1.0),))
    assert places[2][1].boxes == (), "it has no box"
    borrowed = Flickr30k().load_places(entities_folder, quechua)
    assert [each[0].words for each in borrowed] == ["Caption"] * 3


def test_japanese_captions_have_tags_and_the_length_of_their_english(tmp_path: Path) -> None:
    write_lines(tmp_path / "Sentences_jp_v2" / "7.txt", ["1:[/EN#3/people 男]が2:[/EN#4/clothing 赤い服]を着た。", ""])
    write_lines(tmp_path / "Sentences" / "7.txt", ["[/EN#3/people A man] in [/EN#4/clothing a red shirt] ."])
    rows = [Caption("7", 0, "男が赤い服を着た", "a man in a red shirt", False)]
    tags = read_tags(tmp_path, "ja", rows)
    assert tags.notes == ()
    japanese = known_languages()["en"].__class__("ja", "Japanese", "Jpan", 5, ())
    assert caption_facets(tags, rows, japanese, "jp") == {
        "entity-type": (("people", "clothing"),),
        "entities": (("2",),),
        "length": (("1-7",),),
        "source": (("jp",),),
    }
    assert "length" not in caption_facets(tags, [rows[0]._replace(english=None)], japanese, "jp")


@given(st.text())
def test_a_caption_key_ignores_blanks_and_capitals(text: str) -> None:
    assert caption_key(text) == caption_key(f" {text} .") == caption_key(caption_key(text))


# loading


def test_phrases_have_boxes_and_english_counterparts(entities_folder: Path) -> None:
    loaded = TASK.load(entities_folder, "de", "test")
    assert loaded.captions == ("Bildtext", "31", "Bildtext")
    assert loaded.english == ("Caption", "31", "Caption")
    assert loaded.in_english().captions == loaded.english
    assert [loaded.images.ids[place] for place in loaded.caption_images] == ["31", "31", "33"]
    assert loaded.targets.tolist() == [[0, 0, 4, 8], [4, 0, 8, 8], [0, 0, 4, 8]]
    assert loaded.target_captions.tolist() == [0, 1, 2]
    assert loaded.facets["entity-type"] == (("other",), ("people", "animals"), ("other",))
    assert loaded.notes[1:] == (
        "1 of 4 phrases (multi30k) have no box: left out",
        "1 of 3 captions (multi30k) have no tags: left out",
    )


def test_captions_that_do_not_describe_their_image_are_left_out(entities_folder: Path) -> None:
    write_lines(entities_folder / "UNRELATED_CAPTIONS", ["# format: <imageID> <sentence number>", "31 2"])
    loaded = TASK.load(entities_folder, "en", "test")
    assert "31#1" not in {name.partition("@")[0] for name in loaded.caption_ids}
    assert "31#0@0" in loaded.caption_ids


def test_a_language_without_tags_cannot_be_grounded(entities_folder: Path) -> None:
    with pytest.raises(HarnessError, match="has no tagged captions in qu: looked for Sentences_qu/ and Sentences/"):
        TASK.load(entities_folder, "qu", "test")


def test_regions_are_all_boxes_of_the_split_whatever_the_language(entities_folder: Path) -> None:
    regions = TASK.load_regions(entities_folder, "test", "boxes")
    assert regions.images.ids == ("31", "32", "33")
    assert np.bincount(regions.box_images).tolist() == [3, 3, 1]
    assert regions.sizes.tolist() == [[8, 8]] * 3


def test_proposals_come_from_files(entities_folder: Path) -> None:
    (entities_folder / "proposals").mkdir()
    path = entities_folder / "proposals" / "31.json"
    path.write_text(json.dumps({"boxes": [[0, 0, 4.2, 8], [0, 0, 16, 9]], "scores": [0.9, 0.5]}))
    regions = TASK.load_regions(entities_folder, "test", "proposals")
    assert regions.boxes.tolist() == [[0, 0, 5, 8], [0, 0, 8, 8]]
    assert regions.notes == ("2 of 3 images have no region",)
    path.write_text(json.dumps({"boxes": [[0, 0, 8, 16]], "width": 16, "height": 16}))
    assert TASK.load_regions(entities_folder, "test", "proposals").boxes.tolist() == [[0, 0, 4, 8]]


@pytest.mark.parametrize(
    "content",
    [
        '{"boxes": [[0, 0, 1]]}',
        '{"boxes": [[0, 0, 0, 4]]}',
        '{"boxes": [[0, 0, 1, NaN]]}',
        "[]",
        "{",
        '{"boxes": [], "scores": [1]}',
    ],
)
def test_broken_proposals_are_named(entities_folder: Path, content: str) -> None:
    write_lines(entities_folder / "proposals" / "31.json", [content])
    with pytest.raises(HarnessError, match=r"proposals/31\.json"):
        TASK.load_regions(entities_folder, "test", "proposals")


def test_without_regions_the_error_names_the_searched_files(flickr30k_folder: Path) -> None:
    for candidates, place in (("boxes", "Annotations/<id>.xml"), ("proposals", "proposals/<id>.json")):
        with pytest.raises(HarnessError, match=f"has no regions of these 3 images: looked for {place}"):
            TASK.load_regions(flickr30k_folder, "test", candidates)


# views


def quarters() -> Image.Image:
    picture = Image.new("RGB", (8, 8), (255, 255, 255))
    picture.paste((200, 0, 0), (0, 0, 4, 4))
    return picture


def test_a_region_is_cut_out_or_the_rest_is_blacked_out() -> None:
    picture, box, size = quarters(), np.array([0, 0, 4, 4]), np.array([8, 8])
    crop, context, blackout = (draw_view(picture, box, size, view) for view in ("crop", "context", "blackout"))  # type: ignore[arg-type]
    assert (crop.size, context.size, blackout.size) == ((4, 4), (6, 6), (8, 8))
    assert crop.getcolors() == [(16, (200, 0, 0))]
    assert blackout.getpixel((3, 3)) == (200, 0, 0)
    assert blackout.getpixel((4, 4)) == (0, 0, 0)


def test_a_box_is_scaled_to_a_picture_that_was_reduced() -> None:
    assert draw_view(quarters(), np.array([0, 0, 50, 100]), np.array([100, 200]), "crop").getcolors() == [(16, (200, 0, 0))]


@given(
    st.tuples(*[st.integers(0, 499)] * 2), st.tuples(*[st.integers(1, 500)] * 2), st.sampled_from(["crop", "context", "blackout"])
)
def test_every_box_shows_at_least_one_pixel(corner: tuple[int, int], size: tuple[int, int], view: Any) -> None:
    box = np.array([*corner, min(corner[0] + size[0], 500), min(corner[1] + size[1], 500)])
    shown = draw_view(Image.new("RGB", (7, 3), (9, 9, 9)), box, np.array([500, 500]), view)
    assert 1 <= shown.width <= 7
    assert 1 <= shown.height <= 3
    assert shown.getextrema() != ((0, 0),) * 3


def test_another_view_is_another_digest(entities_folder: Path) -> None:
    regions = TASK.load_regions(entities_folder, "test", "boxes")
    views = [RegionViews(regions, view) for view in ("crop", "blackout")]  # type: ignore[arg-type]
    assert views[0].digest() != views[1].digest()
    assert len(views[0].ids) == len(set(views[0].ids)) == 7
    assert views[0].open(0).size == (4, 8)


# ranks


class Names(Pictures):
    """Images of which only the number is used."""

    def __init__(self, count: int) -> None:
        super().__init__([str(place) for place in range(count)], [])


def problem(seed: int) -> tuple[Grounding, Regions, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Draw images with boxes on a small grid, and phrases. The gallery is a reversed subset of the images with regions."""
    draw = np.random.default_rng(seed)

    def boxes(count: int) -> Any:
        corners = draw.integers(0, 6, (count, 2))
        return np.concatenate([corners, corners + draw.integers(1, 5, (count, 2))], 1)

    counts, phrases = draw.integers(0, 6, 4), int(draw.integers(1, 9))
    pictures, gallery = Names(4), Pictures(["3", "1", "0"], [])
    regions = Regions(pictures, boxes(int(counts.sum())), np.repeat(np.arange(4), counts), np.full((4, 2), 10), "boxes")
    gold = draw.integers(1, 3, phrases)
    grounding = Grounding(
        *("t", "de", "test", "s", "k"),
        gallery,
        tuple("abcdefgh"[:phrases]),
        tuple("abcdefgh"[:phrases]),
        draw.integers(0, 3, phrases),
        targets=boxes(int(gold.sum())),
        target_captions=np.repeat(np.arange(phrases), gold),
    )
    # Few directions, so that scores are often tied.
    return (
        grounding,
        regions,
        draw.integers(-1, 2, (phrases, 2)).astype(np.float32),
        draw.integers(-1, 2, (len(regions.boxes), 2)).astype(np.float32),
    )


def iou(a: Any, b: Any) -> float:
    cells = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


@pytest.mark.parametrize("seed", range(60))
def test_ranks_match_a_simple_loop(seed: int) -> None:
    grounding, regions, texts, views = problem(seed)
    found = ground(texts, views, grounding, regions)

    def direction(row: Any) -> Any:
        return row / max(np.linalg.norm(row), 1e-12)

    for phrase, text in enumerate(texts):
        image = grounding.images.ids[grounding.caption_images[phrase]]
        mine = [place for place, owner in enumerate(regions.box_images) if regions.images.ids[owner] == image]
        true = [box for box, owner in zip(grounding.targets, grounding.target_captions, strict=True) if owner == phrase]
        scores = {place: round(float(direction(text) @ direction(views[place])), 6) for place in mine}
        right = [place for place in mine if any(iou(regions.boxes[place], box) >= 0.5 for box in true)]
        wrong = [place for place in mine if place not in right]
        best = max((scores[place] for place in right), default=None)
        expected = MISSED if best is None else 1 + sum(scores[place] >= best for place in wrong)
        assert found.ranks[phrase] == expected
        firsts = [regions.boxes[place] for place in mine if scores[place] == max(scores.values())]
        centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in firsts]
        hits = [any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in true) for x, y in centres]
        assert found.pointed[phrase] == (bool(mine) and all(hits))


def test_overlaps_are_counted_in_pixels() -> None:
    draw = np.random.default_rng(0)
    boxes = np.concatenate([corner := draw.integers(0, 6, (20, 2)), corner + draw.integers(1, 6, (20, 2))], 1)
    assert box_ious(boxes, boxes).tolist() == [[pytest.approx(iou(a, b)) for b in boxes] for a in boxes]


def test_chance_is_the_expectation_of_a_random_order() -> None:
    draw = np.random.default_rng(0)
    orders = draw.permuted(np.tile(np.arange(9), (20_000, 1)), axis=1)
    for k in (1, 5):
        assert chance_of_hit(9, 2, k) == pytest.approx(float((orders[:, :k] < 2).any(1).mean()), abs=0.01)


def test_uncovered_phrases_are_found_at_no_cutoff() -> None:
    grounding, regions, texts, views = problem(1)
    far = Grounding(**{**grounding.__dict__, "targets": grounding.targets + 100})
    found = ground(texts, views, far, regions)
    assert (found.ranks == MISSED).all()
    assert set(found.scores().values()) == {0.0, float(MISSED)}
    assert set(found.chance.values()) == {0.0}


# a breakdown


def test_groups_of_single_valued_facets_add_up_to_the_total() -> None:
    draw = np.random.default_rng(3)
    facet = [(str(draw.integers(0, 4)),) for _ in range(50)]
    tower = Measurement("x", None, Ranks(draw.integers(1, 20, 50), np.ones(10, int)), np.arange(50) // 5)  # type: ignore[arg-type]
    *groups, whole = break_down(tower, facet, 100)
    assert [group.value for group in groups] == facet_values(facet) == ["0", "1", "2", "3"]
    assert sum(group.captions for group in groups) == whole.captions == 50
    for k in range(3):
        total = sum(group.captions * group.intervals[k].estimate for group in groups)
        assert total / 50 == pytest.approx(whole.intervals[k].estimate)
        assert whole.intervals[k].estimate == pytest.approx(tower.hits("t2i")[:, k].mean())


# runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with German towers measured on retrieval and on grounding."""
    folder = tmp_path_factory.mktemp("store")
    for task in ("flickr30k", "flickr30k-entities"):
        done = harness(
            "run", "--task", task, "--lang", "de", "--split", "val", "--objectives", "kd-mse", *SMALL_RUN, store=folder
        )
        assert done.returncode == 0, done.stderr
        (folder / f"{task}.txt").write_text(done.stdout)
    return folder


def records(store: Path, keep: Callable[[Any], bool]) -> list[Path]:
    return [folder for folder in sorted((store / "records").iterdir()) if keep(load_record(folder))]


@pytest.mark.slow
def test_a_run_prints_a_table_of_grounding_and_keeps_records(store: Path) -> None:
    table = (store / "flickr30k-entities.txt").read_text()
    for row in (
        " chance",
        " upper bound",
        "\n kd-mse",
        "English tower, same phrases",
        "phrase → region: gap to English recovered",
    ):
        assert table.count(row) == 1, row
    assert "image → text" not in table
    assert len(list((store / "towers").iterdir())) == 1, "one tower serves both tasks"
    found = records(store, lambda record: record.task == "flickr30k-entities")
    assert len(found) == 4
    for folder in found:
        record, (ranks, owner), pointing = load_record(folder), load_ranks(folder), load_measures(folder)["pointing"]
        assert len(owner) == len(ranks.t2i) == len(pointing) == record.captions
        assert set(pointing) <= {0, 100}
        assert record.scores["t2i_r1"] == pytest.approx(100 * np.mean(ranks.t2i == 1))
        assert record.scores["pointing"] == pytest.approx(pointing.mean())
        assert record.scores["upper_bound"] == 100


@pytest.mark.slow
def test_english_grounds_phrases_well_above_chance(store: Path) -> None:
    (english,) = records(store, lambda r: r.task == "flickr30k-entities" and r.lang == "en" and r.source == "sample-captions")
    record = load_record(english)
    assert record.scores["t2i_r1"] > 1.3 * record.chance["t2i_r1"]


@pytest.mark.slow
def test_regions_are_embedded_once_for_all_languages(store: Path) -> None:
    before = {path.name for path in (store / "embeddings").iterdir()}
    done = harness(
        "run",
        "--task",
        "flickr30k-entities",
        "--lang",
        "cy",
        "--split",
        "val",
        "--objectives",
        "none",
        "--pairs",
        "400",
        "--resamples",
        "200",
        store=store,
    )
    assert done.returncode == 0, done.stderr
    assert "embeds regions" not in done.stderr
    assert len({path.name for path in (store / "embeddings").iterdir()} - before) == 3  # Welsh phrases twice, and their twins


@pytest.mark.slow
def test_facets_are_kept_with_the_ranks(store: Path) -> None:
    for folder in records(store, lambda record: record.task == "flickr30k"):
        table = pq.read_table(folder / "queries.parquet")
        names = [name for name in table.column_names if name.startswith("facet:")]
        assert names == ["facet:entity-type", "facet:entities", "facet:length", "facet:source"]
        texts = np.array(table["direction"].to_pylist()) == "t2i"
        kinds = table["facet:entity-type"].to_pylist()
        assert all(bool(of) == is_text for of, is_text in zip(kinds, texts, strict=True))


@pytest.mark.slow
def test_a_breakdown_is_printed_and_an_unknown_facet_is_refused(store: Path) -> None:
    words = ("run", "--lang", "de", "--split", "val", "--objectives", "kd-mse", *SMALL_RUN)
    done = harness(*words, "--by", "entities", store=store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((store / "flickr30k.txt").read_text())
    counts = [int(line.split()[-1]) for line in done.stdout.partition(" by entities")[2].splitlines() if " kd-mse " in line]
    assert sum(counts[:-1]) == counts[-1] == 150
    wrong = harness(*words, "--by", "entity", store=store)
    assert wrong.returncode == 1
    assert "these de captions have no facet 'entity': did you mean" in wrong.stderr


def test_old_records_still_load() -> None:
    results = Path(__file__).parents[2] / "leaderboards" / "results"
    folders = [path.parent for path in results.glob("*/*/record.json")]
    assert folders
    for folder in folders:
        assert load_record(folder).scorer == "plain"
        assert load_measures(folder) == {}


@pytest.mark.slow
def test_examples_are_drawn(store: Path, tmp_path: Path) -> None:
    words = ("--lang", "de", "--split", "val", "--objectives", "kd-mse", *SMALL_RUN, "--examples", str(tmp_path / "pictures"))
    done = harness("run", "--task", "flickr30k-entities", *words, store=store)
    assert done.returncode == 0, done.stderr
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert len(drawn) == 24
    with Image.open(drawn[0]) as picture:
        assert picture.width == 480
        assert picture.height > 360
    refused = harness("run", *words, store=store)
    assert "--examples draws the regions that phrases found, and flickr30k has no phrases" in refused.stderr


def test_boxes_are_drawn_in_place_and_cover_no_pixels() -> None:
    drawn = draw_boxes(Image.new("RGB", (100, 50), (9, 9, 9)), [(10, 10, 60, 40), (0, 0, 100, 50)], ["true", "found"], "a phrase")
    assert drawn.width == 480
    assert drawn.height == 240 + 3 * 22 + 8
    assert drawn.getpixel((48, 100)) == (0, 158, 115)
    assert drawn.getpixel((0, 120)) == (213, 94, 0)
    assert drawn.getpixel((160, 120)) == (9, 9, 9)
    plain = draw_boxes(Image.new("RGB", (600, 50), (9, 9, 9)), [], [])
    assert (plain.size, plain.getcolors()) == ((600, 50), [(30_000, (9, 9, 9))])
