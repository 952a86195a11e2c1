"""Every caption source in its own format, on handmade files and against the counts of a real folder."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from harness.core.builtins import TASKS
from harness.core.errors import HarnessError, MissingError
from harness.tasks.caption_sources import catalogue
from harness.tasks.crossmodal3600 import crossmodal3600
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.captions import SourceCaptions, read_captions
from harness.tasks.xtd import xtd
from tests.support.flickr30k_folders import MULTI30K, captions_of, english_line, write_lines

TASK = Flickr30k()
TASK1 = Path("multi30k/data/task1")


def read(folder: Path, name: str, lang: str) -> SourceCaptions:
    captions = read_captions(folder, catalogue().sources[name], lang)
    assert captions is not None
    return captions


def rows(captions: SourceCaptions) -> list[tuple[str, int, str]]:
    return [(row.image, row.number, row.text) for row in captions.rows]


# independent captions


def test_task_2_has_several_captions_an_image_and_no_bitext(flickr30k_folder: Path) -> None:
    task2 = flickr30k_folder / "multi30k" / "data" / "task2"
    for split, names in {"train": MULTI30K["train"], "val": ["21"], "test_2016": ["33", "32"]}.items():
        write_lines(task2 / "image_splits" / f"{split}_images.txt", [f"{name}.jpg" for name in names])
        for k in range(1, 6):
            write_lines(task2 / "raw" / f"{split}.{k}.de", [f"Bild {name}, {k}" for name in names])
    captions = read(flickr30k_folder, "multi30k-task2", "de")
    assert [row for row in rows(captions) if row[0] == "32"] == [("32", k, f"Bild 32, {k + 1}") for k in range(5)]
    assert all(row.english is None for row in captions.rows)
    loaded = TASK.load(flickr30k_folder, "de", "test", "multi30k-task2")
    assert (loaded.kind, len(loaded.captions), loaded.english) == ("independent caption", 15, None)
    for path in (flickr30k_folder / TASK1 / "raw").glob("*.de"):
        path.unlink()
    assert TASK.load(flickr30k_folder, "de", "test").source == "multi30k-task2"
    with pytest.raises(MissingError, match=r"task2/raw/\{train,val,test_2016\}\.\{1,2,3,4,5\}\.de \(which has no training file"):
        TASK.load_bitext(flickr30k_folder, "de")


def test_xflickrco_drops_coco_images_empty_sentences_and_phrase_numbers(flickr30k_folder: Path) -> None:
    lines = [
        {"sentences": ["帽子の1男が2２匹の犬と12走る"], "id": "31", "img_path": "31.jpg"},
        {"sentences": [""], "id": "32", "img_path": "32.jpg"},
        {"sentences": ["犬"], "id": 391895, "img_path": "COCO_val2014_000000391895.jpg"},
    ]
    for lang in ("ja", "id"):
        write_lines(flickr30k_folder / "xFlickrCO" / "annotations" / lang / "test.jsonl", [json.dumps(line) for line in lines])
    loaded = TASK.load(flickr30k_folder, "ja", "test")
    assert captions_of(loaded) == [("31", "帽子の男が２匹の犬と走る")], "full-width digits are text"
    assert (loaded.source, loaded.kind) == ("xflickrco", "human translation")
    assert loaded.notes == (
        "stray phrase numbers were taken out of 1 captions of ja/test.jsonl",
        "1 empty captions of ja/test.jsonl left out",
        "1 captions of COCO images of ja/test.jsonl left out",
        "1 of 3 images have a caption in ja",
    )
    indonesian = TASK.load(flickr30k_folder, "id", "test")
    assert (indonesian.captions, indonesian.kind) == (("帽子の1男が2２匹の犬と12走る",), "independent caption")


@pytest.mark.parametrize("line", ["{", '{"sentences": "ein Satz", "id": "1"}', '{"sentences": [], "id": "1"}', '{"id": "1"}'])
def test_a_malformed_line_of_xflickrco_is_named(flickr30k_folder: Path, line: str) -> None:
    write_lines(flickr30k_folder / "xFlickrCO" / "annotations" / "tr" / "test.jsonl", [line])
    with pytest.raises(HarnessError, match=r'tr/test\.jsonl, line 1: expected \{"sentences"'):
        read(flickr30k_folder, "xflickrco", "tr")


def test_framed_multi30k_has_translations_and_independent_captions(flickr30k_folder: Path) -> None:
    data = flickr30k_folder / "framed-multi30k" / "data"
    for split, names in MULTI30K.items():
        path = data / "multi30k" / "task1" / "raw" / f"{split}.pt.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(f"legenda de {name}\n" for name in names).encode()))
    write_lines(data / "flickr30k" / "captions.txt", [f"{name}.jpg#{k}\tdescrição {k}" for name in ("31", "33") for k in (0, 1)])
    translated = TASK.load(flickr30k_folder, "Portuguese", "test")
    assert (translated.source, translated.kind) == ("framed-multi30k", "human translation")
    assert translated.english == tuple(english_line(name) for name in ("31", "32", "33"))
    assert len(TASK.load_bitext(flickr30k_folder, "pt")) == 3
    own = TASK.load(flickr30k_folder, "pt", "test", "framed-captions")
    assert (own.kind, own.english) == ("independent caption", None)
    assert captions_of(own) == [(name, f"descrição {k}") for name in ("31", "33") for k in (0, 1)]


# translations


def test_japanese_entities_are_read_as_plain_text_with_their_english(flickr30k_folder: Path) -> None:
    write_lines(
        flickr30k_folder / "Sentences_jp_v2" / "31.txt",
        ["1:[/EN#19/people/other 二人の男]が2:[/EN#20/clothing 赤い服]を着ている。", "", "タグのない文。"],
    )
    write_lines(
        flickr30k_folder / "Sentences" / "31.txt",
        ["[/EN#19/people/other Two men] in [/EN#20/clothing red] .", "Corrupt .", "A sentence without tags ."],
    )
    write_lines(flickr30k_folder / "Sentences_jp_v2" / "12.txt", ["[/EN#3/animals 犬]が走る。"])
    captions = read(flickr30k_folder, "flickr30kent-jp", "ja")
    assert rows(captions) == [("12", 0, "犬が走る。"), ("31", 0, "二人の男が赤い服を着ている。"), ("31", 2, "タグのない文。")]
    assert [row.english for row in captions.rows] == [None, "Two men in red .", "A sentence without tags ."]
    assert captions.notes == ("1 empty captions of Sentences_jp_v2 left out",)
    bitext = TASK.load_bitext(flickr30k_folder, "ja")
    assert (bitext.image_ids, bitext.foreign[0]) == (("31", "31"), "二人の男が赤い服を着ている。")
    write_lines(flickr30k_folder / "Sentences" / "31.txt", ["Two men ."])
    assert "1 files of Sentences_jp_v2 have another number of lines than their English: read without it" in (
        read(flickr30k_folder, "flickr30kent-jp", "ja").notes
    )


def test_flickr30k_200_is_read_in_the_order_of_its_own_list_or_of_multi30ks(flickr30k_folder: Path) -> None:
    folder = flickr30k_folder / "flickr30k-200"
    write_lines(folder / "swh_Latn.txt", ["maelezo ya 33", "maelezo ya 32"])
    write_lines(folder / "zho_Hant.txt", ["圖 33", "圖 32"])
    with pytest.raises(
        HarnessError, match=r"eng_captions\.txt is missing: swh_Latn\.txt needs it for the English original of each line"
    ):
        TASK.load(flickr30k_folder, "sw", "test")
    write_lines(folder / "eng_Latn.txt", ["Caption 0 of 33.", "Caption 0 of 32."])
    loaded = TASK.load(flickr30k_folder, "swh_Latn", "test")
    assert captions_of(loaded) == [("32", "maelezo ya 32"), ("33", "maelezo ya 33")]
    assert loaded.english == ("Caption 0 of 32.", "Caption 0 of 33.")
    assert (loaded.source, loaded.kind) == ("flickr30k-200", "machine translation")
    assert loaded.notes == ("2 of 3 images have a caption in sw",)
    write_lines(folder / "filenames.txt", ["31.jpg", "32.jpg"])
    assert captions_of(TASK.load(flickr30k_folder, "sw", "test")) == [("31", "maelezo ya 33"), ("32", "maelezo ya 32")]
    assert captions_of(TASK.load(flickr30k_folder, "zh-Hant", "test"))[0] == ("31", "圖 33")
    with pytest.raises(MissingError, match=r"flickr30k-200/swh_Latn\.txt \(which has no training file"):
        TASK.load_bitext(flickr30k_folder, "sw")


@pytest.mark.parametrize(
    ("name", "lang", "file", "line", "kind"),
    [
        ("flickr30k-cn", "zh", "flickr30k-cn/test.txt", "31#zhm#0\t两只狗", "human translation"),
        ("flickr30k-cna", "zh", "flickr30k-cn/val.txt", "31\t两只狗", "human translation"),
        ("arabic-flickr8k", "ar", "Flickr8k.arabic.full.txt", "31_693b08cb0e.jpg#2\tكلبان", "machine translation"),
        ("arabic-flickr30k", "ar", "arabic-flickr30k/captions.txt", "31.jpg#2\tكلبان", "machine translation"),
    ],
)
def test_lists_of_id_and_caption(flickr30k_folder: Path, name: str, lang: str, file: str, line: str, kind: str) -> None:
    path = flickr30k_folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line, encoding="utf-8")
    loaded = TASK.load(flickr30k_folder, lang, "test", name)
    assert captions_of(loaded) == [("31", line.partition("\t")[2])]
    assert (loaded.source, loaded.kind, loaded.english) == (name, kind, None)


# Multi30k's later test sets


def test_a_later_test_set_has_its_own_images(flickr30k_folder: Path) -> None:
    task1 = flickr30k_folder / TASK1
    names = ["22439193117_4183a49ec2.jpg", "350_ab.jpg"]
    write_lines(task1 / "image_splits" / "test_2018_flickr.txt", names)
    write_lines(task1 / "raw" / "test_2018_flickr.en", ["A new dog.", "A new cat."])
    write_lines(task1 / "raw" / "test_2018_flickr.cs", ["Nový pes.", "Nová kočka."])
    with pytest.raises(HarnessError, match=r"the split test_2018_flickr has no pictures here"):
        TASK.load(flickr30k_folder, "cs", "test_2018_flickr")
    for name in names:
        Image.new("RGB", (8, 8)).save(flickr30k_folder / "flickr30k-images" / name)
    loaded = TASK.load(flickr30k_folder, "cs", "test_2018_flickr")
    assert captions_of(loaded) == [("22439193117", "Nový pes."), ("350", "Nová kočka.")]
    assert loaded.english == ("A new dog.", "A new cat.")
    assert TASK.load(flickr30k_folder, "en", "test_2018_flickr").captions == loaded.english
    assert "350" in TASK.held_out(flickr30k_folder, "de").image_ids
    with pytest.raises(MissingError, match="no German"):
        TASK.load(flickr30k_folder, "de", "test_2018_flickr")
    with pytest.raises(HarnessError, match=r"test_2017_flickr\.txt is missing: it comes with Multi30k"):
        TASK.load(flickr30k_folder, "de", "test_2017_flickr")


# other tasks


@pytest.fixture
def xtd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "xtd"
    names = ["COCO_train2014_000000117071.jpg", "COCO_val2014_000000000042.jpg"]
    write_lines(folder / "XTD10" / "test_image_names.txt", names)
    for name in names:
        place = folder / name.split("_")[1]
        place.mkdir()
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(place / name)
    write_lines(folder / "MIC" / "test_1kcaptions_en.txt", ["A tram.", "A tree."])
    (folder / "XTD10" / "test_1kcaptions_it.txt").write_text("Un tram.\nUn albero.")
    write_lines(folder / "STAIR" / "test_1kcaptions_jp.txt", ["路面電車", "木"])
    write_lines(folder / "xtd200" / "swh_Latn.txt", ["tramu", "mti"])
    return folder


def test_xtd(xtd_folder: Path) -> None:
    task = TASKS.load("xtd")()
    italian = task.load(xtd_folder, "it", "test")
    names = ("COCO_train2014_000000117071", "COCO_val2014_000000000042")
    assert captions_of(italian) == list(zip(names, ["Un tram.", "Un albero."], strict=True))
    assert (italian.task, italian.source, italian.kind, italian.english) == (
        "xtd",
        "xtd10",
        "human translation",
        ("A tram.", "A tree."),
    )
    assert italian.images.open(1).size == (8, 8)
    japanese, swahili = task.load(xtd_folder, "ja", "test"), task.load(xtd_folder, "sw", "test")
    assert (japanese.captions, japanese.kind, japanese.english) == (("路面電車", "木"), "independent caption", None)
    assert (swahili.source, swahili.kind) == ("xtd200", "machine translation")
    assert task.load(xtd_folder, "en", "test").kind == "original"
    assert task.held_out(xtd_folder, "it").english == {"A tram.", "A tree."}
    with pytest.raises(MissingError, match=r"bitext has no it\.tsv, no \*\.en with \*\.it, and no TMX in Italian"):
        task.load_bitext(xtd_folder, "it")
    (xtd_folder / "val2014" / "COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(HarnessError, match=r"lacks 1 of 2 pictures, COCO_val2014_000000000042\.jpg first"):
        task.load(xtd_folder, "it", "test")
    assert [finding.found for finding in task.check(xtd_folder)] == [False, True, True, True, True]


def test_crossmodal(tmp_path: Path) -> None:
    lines = [
        {"image/key": "000411001ff7dd4f", "en": {"caption": ["A tram.", " "]}, "quz": {"caption": ["Huk tranwiya."]}},
        {
            "image/key": "00a1",
            "en": {"caption": ["A tree.", "A big one."]},
            "quz": {"caption": []},
            "fil": {"caption": ["Puno"]},
        },
    ]
    write_lines(tmp_path / "captions.jsonl", [json.dumps(line) for line in lines])
    (tmp_path / "images").mkdir()
    for line in lines:
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{line['image/key']}.jpg")
    task = crossmodal3600()
    english = task.load(tmp_path, "en", "test")
    assert captions_of(english) == [("000411001ff7dd4f", "A tram."), ("00a1", "A tree."), ("00a1", "A big one.")]
    assert english.notes == ("1 empty captions of captions.jsonl left out",)
    quechua = task.load(tmp_path, "quz", "test")
    assert (quechua.lang, quechua.captions, quechua.notes) == (
        "qu",
        ("Huk tranwiya.",),
        ("1 of 2 images have a caption in qu",),
    )
    assert task.load(tmp_path, "Filipino", "test").captions == ("Puno",)
    assert len(task.languages()) == 36
    with pytest.raises(MissingError, match=r"no German \(de\) captions"):
        task.load(tmp_path, "de", "test")
    write_lines(tmp_path / "captions.jsonl", ['{"image/key": "00a1", "en": ["A tree."]}'])
    with pytest.raises(HarnessError, match=r"captions\.jsonl, line 1: expected \{\"image/key\""):
        task.load(tmp_path, "en", "test")


@pytest.mark.parametrize("make", [xtd, crossmodal3600])
def test_a_task_without_a_sample_refuses_to_write_one(make: type, tmp_path: Path) -> None:
    task = make()
    with pytest.raises(HarnessError, match=rf"{task.card.name} has no embedded sample: give its folder with --data DIR or"):
        task.sample_version()
    with pytest.raises(HarnessError, match="is not a folder: give the folder of"):
        task.load(tmp_path / "nowhere", "en", "test")


# the real folder


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "langs", "captions", "note"),
    [
        ("multi30k", ["de", "fr", "cs", "en"], 31_014, None),
        ("multiscript30k", ["es", "ar"], 31_014, None),
        ("multiscript30k", ["qu", "gn", "ay"], 31_013, "line 904"),
        ("xflickrco", ["en", "de", "tr"], 1_000, "1,000 captions of COCO"),
        ("xflickrco", ["id"], 999, "1 empty captions"),
        ("xflickrco", ["ja"], 1_000, "stray phrase numbers were taken out of 1,000"),
        (
            "flickr30k-200",
            ["am", "ay", "bn", "ckb", "cy", "en", "eu", "gn", "ha", "my", "ne", "qu", "sw", "ta", "yo"],
            1_000,
            None,
        ),
    ],
)
def test_real_sources_have_the_known_counts(real_folder: Path, name: str, langs: list[str], captions: int, note: str) -> None:
    for lang in langs:
        found = read(real_folder, name, lang)
        assert len(found.rows) == captions
        assert (note in " ".join(found.notes)) if note else found.notes == ()
        if lang == "ja":
            assert not any(re.search("[0-9]", row.text) for row in found.rows)


@pytest.mark.real
def test_real_flickr30k_200_covers_243_of_the_test_images(real_folder: Path) -> None:
    for path in (real_folder / "flickr30k-200").glob("*_*.txt"):
        if path.stem in ("eng_Latn", "eng_captions"):
            continue
        loaded = TASK.load(real_folder, path.stem, "test", "flickr30k-200")
        assert (len(loaded.images.ids), len(loaded.captions), loaded.sample) == (243, 243, False)
        assert loaded.notes[0] == f"243 of 1,000 images have a caption in {loaded.lang}"
        assert all("of 243 captions" in note for note in loaded.notes[1:])
        english = TASK.load(real_folder, "en", "test").among(loaded.images)
        own = {(name, re.sub(r"\W", "", text.lower())) for name, text in captions_of(english)}
        twins = zip(loaded.images.ids, loaded.in_english().captions, strict=True)
        assert sum((name, re.sub(r"\W", "", text.lower())) in own for name, text in twins) > 220, "English of the same images"
