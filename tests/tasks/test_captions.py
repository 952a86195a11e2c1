"""Readers of captions: languages.toml, sources.toml, every layout, the join by image id, known gaps, and damaged files."""

from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.core.languages import LANGUAGES, read_language_table, resolve_language
from harness.readers.image_ids import photo_id
from harness.readers.text_files import read_lines
from harness.tasks.caption_sources import SOURCES, MissingLines, SourceSpec, catalogue, known_languages, read_catalogue
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.captions import SourceCaptions, read_captions
from harness.tasks.readers.karpathy import read_photos
from tests.support.flickr30k_folders import MULTI30K, english_line, write_lines

TASK1 = Path("multi30k/data/task1")


def source(name: str) -> SourceSpec:
    return catalogue().sources[name]


def read(folder: Path, name: str, lang: str) -> SourceCaptions:
    captions = read_captions(folder, source(name), lang)
    assert captions is not None
    return captions


def texts(captions: SourceCaptions) -> dict[str, str]:
    return {row.image: row.text for row in captions.rows}


# languages.toml and sources.toml


def test_languages_have_their_tiers_and_sources() -> None:
    languages = known_languages()
    tiers = {code: language.tier for code, language in languages.items()}
    assert tiers.items() >= {"en": 5, "de": 5, "fr": 5, "es": 5, "ar": 5, "cs": 4, "eu": 4, "id": 3, "sw": 2, "yo": 2}.items()
    assert {code for code, tier in tiers.items() if tier == 1} >= {"qu", "gn", "ay", "cy"}
    assert languages["qu"].sources == ("own-multi30k", "own-captions", "multiscript30k", "flickr30k-200", "sample-translations")
    assert source("multiscript30k").kind == "machine translation"
    assert languages["de"].sources[0] == "multi30k"
    assert source("multi30k").kind == "human translation"


@pytest.mark.parametrize("text", ["de", "DE", "deu_Latn", "deu-latn", "German", " german ", "ger"])
def test_a_language_is_found_by_code_alias_and_name(text: str) -> None:
    assert resolve_language(text, known_languages()).code == "de"


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r"unknown language 'Quechau': did you mean Quechua \(qu\) .*`list languages`"):
        resolve_language("Quechau", known_languages())
    with pytest.raises(HarnessError, match="unknown language 'xxxxxx': `list languages` shows all 201"):
        resolve_language("xxxxxx", known_languages())


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("tier = 4", "tier = 6", r"languages\.\w+\.tier: Input should be less than or equal to 5"),
        ('script = "Arab"', 'script = "arabic"', r"languages\.[\w-]+\.script: String should match"),
        ('flores = "deu_Latn"', 'flores = "deu"', r"languages\.de\.flores: String should match"),
        ('aliases = ["ger"', 'aliases = ["eng"', r"languages\.en: 'eng' already means de|languages\.de: 'eng' already means en"),
    ],
)
def test_an_invalid_languages_file_is_named_with_its_entry(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / LANGUAGES.name
    path.write_text(LANGUAGES.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(HarnessError, match=re.escape(str(path)) + ".*" + complaint):
        read_language_table(path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('kind = "original"', 'kind = "orginal"', r"sources\.karpathy\.kind: Input should be 'original'"),
        ('layout = "tagged"', 'layout = "taged"', r"sources\.flickr30kent-jp\.layout: Input should be 'karpathy'"),
        ('languages = ["en"]', 'languages = ["eng"]', r"sources\.karpathy: 'eng' is not a language"),
        ("sample = true", "simple = true", r"sources\.sample-captions\.simple: Extra inputs"),
        ("missing = [904]", "missing = [1904]", r"sources\.multiscript30k\.gaps\.0: .*below `lines`"),
        ('languages = ["qu", "gn", "ay"]', 'languages = ["quz"]', r"sources\.multiscript30k: 'quz' is not a language"),
        ('url = "https://raw', 'url = "ftp://raw', r"sources\.multi30k\.downloads\.0\.url: String should match"),
        ("[sources.karpathy]", "[sources.karpathy", "Expected ']'"),
    ],
)
def test_an_invalid_sources_file_is_named_with_its_entry(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / SOURCES.name
    path.write_text(SOURCES.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(HarnessError, match=re.escape(str(path)) + ".*" + complaint):
        read_catalogue(path)


# ids


@given(st.text("0123456789abc", min_size=1), st.sampled_from(["", ".jpg", "_", "#"]), st.text("0_.#a"))
def test_a_photo_id_ends_before_any_separator(name: str, mark: str, rest: str) -> None:
    assert photo_id(name + mark + rest if mark else name) == name


# layouts


def test_multi30k_is_joined_by_image_id_over_all_splits(flickr30k_folder: Path) -> None:
    captions = read(flickr30k_folder, "multi30k", "de")
    assert texts(captions) == {name: f"Bildtext von {name}." for names in MULTI30K.values() for name in names}
    assert all(row.english == english_line(row.image) and row.number == 0 for row in captions.rows)
    assert captions.notes == ()


@given(seed=st.integers(0, 2**32))
def test_joining_does_not_depend_on_the_order_of_lines(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("order")
    names = [str(n) for n in range(100, 112)]
    random.Random(seed).shuffle(names)
    for split, part in zip(MULTI30K, (names[:5], names[5:8], names[8:]), strict=True):
        write_lines(folder / TASK1 / "image_splits" / f"{split}.txt", [f"{name}.jpg" for name in part])
        write_lines(folder / TASK1 / "raw" / f"{split}.en", [f"about {name}" for name in part])
        write_lines(folder / TASK1 / "raw" / f"{split}.fr", [f"sur {name}" for name in part])
    captions = read(folder, "multi30k", "fr")
    assert {(row.image, row.text, row.english) for row in captions.rows} == {(n, f"sur {n}", f"about {n}") for n in names}


def test_an_image_with_several_lines_has_them_numbered(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / TASK1 / "image_splits" / "val.txt", ["21.jpg"] * 3)
    write_lines(flickr30k_folder / TASK1 / "raw" / "val.en", ["a", "b", "c"])
    write_lines(flickr30k_folder / TASK1 / "raw" / "val.de", ["A", " ", "C"])
    captions = read(flickr30k_folder, "multi30k", "de")
    assert [(row.number, row.text) for row in captions.rows if row.image == "21"] == [(0, "A"), (2, "C")]
    assert captions.notes == ("1 empty captions (or their English) of val.de left out",)


def test_gzip_is_read_like_plain_text(flickr30k_folder: Path) -> None:
    plain = read(flickr30k_folder, "multi30k", "de")
    for path in (flickr30k_folder / TASK1 / "raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read(flickr30k_folder, "multi30k", "de") == plain


def test_a_missing_split_is_noted(flickr30k_folder: Path) -> None:
    (flickr30k_folder / TASK1 / "raw" / "val.de").unlink()
    captions = read(flickr30k_folder, "multi30k", "de")
    assert captions.notes == ("multi30k has no val.de here",)
    assert "21" not in texts(captions)


def test_a_source_without_files_is_absent(flickr30k_folder: Path) -> None:
    assert read_captions(flickr30k_folder, source("multi30k"), "cs") is None
    assert read_captions(flickr30k_folder, source("own-captions"), "sw") is None
    assert read_captions(flickr30k_folder / "nowhere", source("karpathy"), "en") is None


def test_multi30k_has_any_language_with_files(flickr30k_folder: Path) -> None:
    for split, names in MULTI30K.items():
        write_lines(flickr30k_folder / TASK1 / "raw" / f"{split}.sw", [f"maelezo ya {name}" for name in names])
    assert texts(read(flickr30k_folder, "own-multi30k", "sw"))["31"] == "maelezo ya 31"


def test_multiscript30k_has_its_own_codes(flickr30k_folder: Path) -> None:
    for split, names in MULTI30K.items():
        path = flickr30k_folder / "multiscript30k" / "multi30k-dataset-en-ar_arab" / f"{split}.ar_arab"
        write_lines(path, [f"صورة {name}" for name in names])
    assert texts(read(flickr30k_folder, "multiscript30k", "ar"))["31"] == "صورة 31"


def test_multiscript30k_needs_multi30k(flickr30k_folder: Path) -> None:
    (flickr30k_folder / TASK1 / "raw" / "val.en").unlink()
    with pytest.raises(HarnessError, match=r"raw/val\.en is missing: val\.qu needs it .*github\.com/multi30k/dataset"):
        read(flickr30k_folder, "multiscript30k", "qu")
    (flickr30k_folder / TASK1 / "image_splits" / "train.txt").unlink()
    with pytest.raises(HarnessError, match=r"image_splits/train\.txt is missing: train\.qu needs it for the image of each line"):
        read(flickr30k_folder, "multiscript30k", "qu")


def test_a_caption_may_hold_unicode_line_separators(flickr30k_folder: Path) -> None:
    lines = ["eins\u2028eins", "zwei\x85", "drei\x0c"]
    write_lines(flickr30k_folder / TASK1 / "raw" / "train.de", lines)
    assert [row.text for row in read(flickr30k_folder, "multi30k", "de").rows[:3]] == lines


def test_line_ends_of_windows_and_a_byte_order_mark_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.de"
    path.write_bytes(b"\xef\xbb\xbfeins\r\nzwei \r\ndrei")
    assert read_lines(path) == ["eins", "zwei ", "drei"]


# counts and gaps


@pytest.mark.parametrize("lines", [["a", "b"], ["a", "b", "c", "d"], []])
def test_a_wrong_count_names_file_expected_and_found(flickr30k_folder: Path, lines: list[str]) -> None:
    path = flickr30k_folder / TASK1 / "raw" / "train.de"
    write_lines(path, lines)
    with pytest.raises(HarnessError, match=rf"{re.escape(str(path))} has {len(lines)} lines, expected 3"):
        read(flickr30k_folder, "multi30k", "de")


def test_a_wrong_count_of_the_english_side_is_an_error(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / TASK1 / "raw" / "train.en", ["a"])
    with pytest.raises(HarnessError, match=r"train\.en has 1 lines, expected 3"):
        read(flickr30k_folder, "multi30k", "de")


def with_gap(lines: int = 3, missing: tuple[int, ...] = (1,)) -> SourceSpec:
    gap = MissingLines(split="train", languages=("qu",), lines=lines, missing=missing)
    return source("multiscript30k").model_copy(update={"gaps": (gap,)})


def test_a_known_gap_realigns_later_lines(flickr30k_folder: Path) -> None:
    train = flickr30k_folder / "multiscript30k" / "multi30k-dataset-en-qu" / "train.qu"
    write_lines(train, ["11 qillqa", "31 qillqa"])
    captions = read_captions(flickr30k_folder, with_gap(), "qu")
    assert captions is not None
    assert texts(captions) == {name: f"{name} qillqa" for name in ("11", "31", "21", "33", "32")}
    assert all(row.english == english_line(row.image) for row in captions.rows)
    assert len(captions.notes) == 1
    assert captions.notes[0].startswith("train.qu is known to lack the translation of line 1 (counted from 0)")


def test_a_corrected_file_has_no_gap(flickr30k_folder: Path) -> None:
    captions = read_captions(flickr30k_folder, with_gap(), "qu")
    assert captions is not None
    assert texts(captions)["12"] == "12 qillqa"
    assert captions.notes == ()


@pytest.mark.parametrize(("gap", "lines"), [(with_gap(), ["a"]), (with_gap(lines=9, missing=(1,)), ["a", "b"])])
def test_a_gap_applies_only_to_its_own_file(flickr30k_folder: Path, gap: SourceSpec, lines: list[str]) -> None:
    write_lines(flickr30k_folder / "multiscript30k" / "multi30k-dataset-en-qu" / "train.qu", lines)
    with pytest.raises(HarnessError, match=rf"train\.qu has {len(lines)} lines, expected 3"):
        read_captions(flickr30k_folder, gap, "qu")


# captions/<lang>.tsv


def test_tsv_accepts_ids_and_file_names(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31\tmoja", "", "31_ab.jpg#1\tmbili\ttatu", "32.jpg\t  "])
    captions = read(flickr30k_folder, "own-captions", "sw")
    assert [(row.image, row.number, row.text, row.english) for row in captions.rows] == [
        ("31", 0, "moja", None),
        ("31", 1, "mbili\ttatu", None),
    ]
    assert captions.notes == ("1 empty captions of sw.tsv left out",)


@pytest.mark.parametrize("line", ["31 moja", "\tmoja", ".jpg\tmoja", "31.jpg| 0| moja", "31,moja"])
def test_tsv_names_a_malformed_line(flickr30k_folder: Path, line: str) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31\tmoja", line])
    with pytest.raises(HarnessError, match=r"sw\.tsv, line 2: expected image id, tab, caption"):
        read(flickr30k_folder, "own-captions", "sw")


# tables written by programs


def table(folder: Path, *lines: str, lang: str = "sw") -> tuple[list[tuple[str, int, str]], tuple[str, ...]]:
    write_lines(folder / "captions" / f"{lang}.tsv", list(lines))
    captions = read(folder, "own-captions", lang)
    return [(row.image, row.number, row.text) for row in captions.rows], captions.notes


MOJA_MBILI = [("31", 0, "moja"), ("31", 1, "mbili")]


@pytest.mark.parametrize(
    "lines",
    [
        ("31.jpg\t0\tmoja", "31.jpg\t1\tmbili"),
        ("31.jpg\t31.jpg#0\tmoja", "31.jpg\t31.jpg#1\tmbili"),
        ("31.jpg#0\tmoja", "31.jpg#1\tmbili"),
        ("31.jpg#sw#0 moja", "31.jpg#sw#1  mbili"),
        ("31\tmoja\t", "31\tmbili\t\t"),
        ("image\tcaption", "31\tmoja", "31\tmbili\t"),
        ("image_name\tcomment_number\tcomment", "31.jpg\t0\tmoja", "31.jpg\t1\tmbili"),
        ("caption\tsplit\tfilename", "moja\ttest\t31.jpg", "mbili\ttest\t31.jpg"),
        ("\ufeff31\tmoja", "\ufeff31\tmbili"),
        ('"31"\t"moja"', '"31"\t"mbili"'),
    ],
)
def test_headers_numbers_and_quotes_are_removed_from_captions(flickr30k_folder: Path, lines: tuple[str, ...]) -> None:
    assert table(flickr30k_folder, *lines)[0] == MOJA_MBILI


def test_a_caption_that_begins_with_a_number_keeps_it(flickr30k_folder: Path) -> None:
    assert table(flickr30k_folder, "31\t2 mbwa", "31\t0")[0] == [("31", 0, "2 mbwa"), ("31", 1, "0")]


def test_an_empty_caption_after_its_number_is_empty(flickr30k_folder: Path) -> None:
    rows, notes = table(flickr30k_folder, "31\t0\tmoja", "31\t1\t")
    assert rows == MOJA_MBILI[:1]
    assert notes == ("1 empty captions of sw.tsv left out",)


@pytest.mark.parametrize("text", ["\u00a0", "\u200b", "\u3000 ", "\ufeff"])
def test_an_invisible_caption_is_empty(flickr30k_folder: Path, text: str) -> None:
    rows, notes = table(flickr30k_folder, "31\tmoja", f"31\t{text}")
    assert (rows, notes) == (MOJA_MBILI[:1], ("1 empty captions of sw.tsv left out",))


def test_a_repeated_caption_number_is_noted(flickr30k_folder: Path) -> None:
    rows, notes = table(flickr30k_folder, "31.jpg#0\tmoja", "31.jpg#0\tmbili")
    assert rows == MOJA_MBILI
    assert notes == ("1 captions of sw.tsv have the number of an earlier one of their image: all are kept",)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (("31\tmoja\t0.5", "32\tmbili\t0.7"), "several columns after the image id and no header that names the caption"),
        (("31\t0\tmoja\tx", "32\t0\tmbili\ty"), "several columns after the image id"),
        (("image\tcaption\tscore", "31\tmoja"), "line 2: 2 columns, expected 3"),
        (("31#0\t31", "32#0\t32"), "the captions are numbers or names, such as '31'"),
        (("31\t0", "32\t1"), "the captions are numbers or names"),
        (("a dog\t31.jpg", "a cat\t32.jpg"), r"the captions are numbers or names, such as '31\.jpg'"),
        (("31\tmoja", "31\tmbili\r32\ttatu"), "line 2: the line contains a carriage return"),
        (("31\tmoja", "31\tmb\0ili"), "line 2: .*contains a NUL"),
        (("31\tmoja", "31\t" + "x" * 5_000_000), "line 2: the caption has 5,000,000 characters, expected at most 10,000"),
    ],
)
def test_a_table_that_cannot_be_recognized_is_refused(flickr30k_folder: Path, lines: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(HarnessError, match=rf"captions/sw\.tsv\b.*{complaint}") as caught:
        table(flickr30k_folder, *lines)
    assert len(str(caught.value)) < 500


@given(st.lists(st.text("ab \"',;.0é", min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_a_spreadsheet_s_quotes_are_undone(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Excel quotes fields with a quote or a comma in tab-separated text and doubles their quotes. Reading undoes both."""
    texts = ['A "Stop" sign, red', *texts]
    saved = ['"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text for text in texts]
    rows, notes = table(tmp_path_factory.mktemp("excel"), *(f"31\t{text}" for text in saved))
    assert [text for _, _, text in rows] == texts
    quoted = sum(old != new for old, new in zip(texts, saved, strict=True))
    assert notes == (f"a spreadsheet's quotes were taken off {quoted} captions of sw.tsv",)


@pytest.mark.parametrize(
    "texts",
    [
        ['"Simama"', "moja, mbili"],
        ['"Stop" na "Go"', '"moja"'],
        ['alisema "moja"', '"mbili, tatu"'],
        ['"', '""moja""'],
    ],
)
def test_quotes_of_the_caption_stay(flickr30k_folder: Path, texts: list[str]) -> None:
    rows, notes = table(flickr30k_folder, *(f"31\t{text}" for text in texts))
    assert ([text for _, _, text in rows], notes) == (texts, ())


@pytest.mark.parametrize("mark", [":", "/", "_"])
def test_part_of_speech_tags_are_removed(flickr30k_folder: Path, mark: str) -> None:
    marked = [
        [("两", "m"), ("只", "q"), ("狗", "n"), ("，", "wd"), ("CD", "nx"), ("3", "m")],
        [("红", "a"), ("的", "ude1"), ("车", "n")],
    ]
    lines = [f"31#zhm#{k} " + " ".join(f"{word}{mark}{tag}" for word, tag in words) for k, words in enumerate(marked)]
    rows, notes = table(flickr30k_folder, *lines, "31#zhm#2 他说:好 的", lang="zh")
    assert [text for _, _, text in rows] == ["两只狗，CD 3", "红的车", "他说:好 的"]
    assert notes == ("marks of parts of speech were taken out of 2 captions of zh.tsv",)
    spaced, _ = table(flickr30k_folder, f"31\tmbwa{mark}NN wawili{mark}CD", lang="sw")
    assert spaced == [("31", 0, "mbwa wawili")]


def test_colons_and_slashes_alone_are_no_tags(flickr30k_folder: Path) -> None:
    texts = ["he/she runs", "at 5:pm", "dogs and/or cats"]
    assert [text for _, _, text in table(flickr30k_folder, *(f"31\t{text}" for text in texts))[0]] == texts


def test_lines_may_end_as_on_old_macintoshes(flickr30k_folder: Path) -> None:
    path = flickr30k_folder / "captions" / "sw.tsv"
    path.parent.mkdir()
    for data in (b"31\tmoja\r31\tmbili", b"31\tmoja\r31\tmbili\r", b"31\tmoja\r31\tmbili\r\n", b"31\tmoja\r31\tmbili\n"):
        path.write_bytes(data)
        assert [(row.image, row.number, row.text) for row in read(flickr30k_folder, "own-captions", "sw").rows] == MOJA_MBILI


# captions that repeat


def test_repeated_captions_of_a_split_are_counted(flickr30k_folder: Path) -> None:
    lines = ["31\tmbwa", "31\tmbwa", "31\tpaka", "32\tmbwa", "33\tpaka wawili", "21\tmbwa"]
    write_lines(flickr30k_folder / "captions" / "sw.tsv", lines)
    assert Flickr30k().load_captions(flickr30k_folder, "sw", "test").notes == (
        "1 of 5 captions repeat another of the same image",
        "3 of 5 captions are shared by several images: they tie, and at most one of these images can rank first",
    )
    assert Flickr30k().load_captions(flickr30k_folder, "sw", "val").notes == ()
    assert Flickr30k().load_captions(flickr30k_folder, "de", "test").notes == ()


# captions of megabytes


def test_a_caption_of_megabytes_is_refused_in_every_layout(flickr30k_folder: Path) -> None:
    long = "x" * 3_000_000
    write_lines(flickr30k_folder / TASK1 / "raw" / "val.de", [long])
    write_lines(
        flickr30k_folder / "xFlickrCO" / "annotations" / "de" / "test.jsonl", [f'{{"sentences": ["{long}"], "id": "31"}}']
    )
    write_lines(flickr30k_folder / "captions.jsonl", [f'{{"image/key": "31", "de": {{"caption": ["{long}"]}}}}'])
    write_lines(flickr30k_folder / "Sentences_jp_v2" / "31.txt", ["[/EN#1" * 500_000])
    for name, lang in (("multi30k", "de"), ("xflickrco", "de"), ("crossmodal3600", "de"), ("flickr30kent-jp", "ja")):
        with pytest.raises(HarnessError, match=r": the caption has 3,000,000 characters, expected at most 10,000"):
            read(flickr30k_folder, name, lang)


# broken files


def test_text_that_is_not_utf8_is_named_with_line_and_byte(flickr30k_folder: Path) -> None:
    path = flickr30k_folder / TASK1 / "raw" / "train.de"
    path.write_bytes(b"eins\nzwei\nM\xe4dchen\n")
    with pytest.raises(HarnessError, match=rf"{re.escape(str(path))} is not UTF-8: line 3, byte 11 .*Latin-1 or GBK: save it as"):
        read(flickr30k_folder, "multi30k", "de")


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("31\tMädchen\n", "utf-16", "UTF-16"),
        ("31\t两只狗\n", "utf-16", "UTF-16"),
        ("31\t两只狗\n", "utf-32", "UTF-32"),
        ("31\tmoja\n", "utf-16-le", "UTF-16"),
        ("31\tmoja\n", "utf-16-be", "UTF-16"),
        ("31\tMädchen\n", "latin-1", "perhaps Latin-1 or GBK"),
        ("31\t两只狗\n", "gbk", "perhaps Latin-1 or GBK"),
        ("31\t犬が二匹\n", "shift_jis", "line 1, byte 3"),
        ("31\tдве собаки\n", "cp1251", "line 1, byte 3"),
    ],
)
def test_another_encoding_is_refused_and_never_guessed(tmp_path: Path, text: str, encoding: str, named: str) -> None:
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "zh.tsv").write_bytes(text.encode(encoding))
    with pytest.raises(
        HarnessError, match=rf"zh\.tsv is .*{named}.*save it as UTF-8, for example with `iconv -f ENCODING -t UTF-8`"
    ) as caught:
        read(tmp_path, "own-captions", "zh")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [4, 20])
def test_a_broken_gzip_is_named(flickr30k_folder: Path, cut: int) -> None:
    path = flickr30k_folder / TASK1 / "raw" / "train.de"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name("train.de.gz").write_bytes(packed[:cut])
    with pytest.raises(HarnessError, match=r"train\.de\.gz is a damaged gzip file"):
        read(flickr30k_folder, "multi30k", "de")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"images": [', "Invalid JSON: .* line 1 column 12"),
        ("[]", "Input should be an object"),
        ('{"pictures": []}', "images: Field required"),
        ('{"images": [{"split": "test", "sentences": []}]}', r"images\.0\.filename: Field required"),
        ('{"images": [{"filename": "1.jpg", "sentences": []}]}', r"images\.0\.split: Field required"),
        ('{"images": [{"filename": "1.jpg", "split": "test"}]}', r"images\.0\.sentences: Field required"),
        (
            '{"images": [{"filename": "1.jpg", "split": "test", "sentences": [{"tokens": []}]}]}',
            r"sentences\.0\.raw: Field required",
        ),
        ('{"images": [{"filename": ".jpg", "split": "test", "sentences": []}]}', "a file name without an id"),
    ],
)
def test_a_malformed_karpathy_file_is_one_error(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(content)
    with pytest.raises(HarnessError, match=rf'{re.escape(str(path))} is not Karpathy\'s form {{"images".*{complaint}') as caught:
        read_photos(path)
    assert "\n" not in str(caught.value)


def test_an_image_belongs_to_one_split(tmp_path: Path) -> None:
    path = tmp_path / "dataset_flickr30k.json"
    entry = '{"filename": "%s", "split": "test", "sentences": []}'
    path.write_text('{"images": [' + entry % "1.jpg" + ", " + entry % "1_ab.jpg" + "]}")
    with pytest.raises(HarnessError, match="lists the image 1 2 times"):
        read_photos(path)


def test_a_changed_list_of_images_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text('{"images": []}')
    assert read_photos(path) == ()
    path.write_text('{"images": [{"filename": "1.jpg", "split": "test", "sentences": []}]}')
    assert [photo.id for photo in read_photos(path)] == ["1"]


# the real folder


def rank_correlation(left: list[int], right: list[int]) -> float:
    """Spearman's, near enough: ties are broken by position."""
    ranks = [{i: r for r, i in enumerate(sorted(range(len(x)), key=x.__getitem__))} for x in (left, right)]
    mean = (len(left) - 1) / 2
    return sum((ranks[0][i] - mean) * (ranks[1][i] - mean) for i in range(len(left))) * 12 / (len(left) ** 3 - len(left))


@pytest.mark.real
@pytest.mark.parametrize("lang", ["qu", "gn", "ay"])
def test_the_declared_gap_of_multiscript30k_is_the_real_one(real_folder: Path, lang: str) -> None:
    images = [photo_id(line) for line in read_lines(real_folder / TASK1 / "image_splits" / "test_2016_flickr.txt")]
    english = read_lines(real_folder / TASK1 / "raw" / "test_2016_flickr.en")
    captions = read(real_folder, "multiscript30k", lang)
    ours = {row.image: row for row in captions.rows if row.image in set(images)}
    assert len(captions.rows) == 31_013
    assert [i for i, image in enumerate(images) if image not in ours] == [904]
    assert all(ours[image].english == line for image, line in zip(images, english, strict=True) if image in ours)
    # Long sentences have long translations: true after the gap only if the lines after it were moved.
    after = [ours[image] for image in images[905:]]
    lengths = [len(row.english or "") for row in after]
    assert rank_correlation(lengths, [len(row.text) for row in after]) > 0.65
    assert rank_correlation(lengths[:-1], [len(row.text) for row in after[1:]]) < 0.2
    # Right after the gap the English names a sport that all three translations keep as a foreign word.
    first = ours[images[905]]
    assert [word for word in (first.english or "").split() if len(word) > 4 and word in first.text]


@pytest.mark.real
@pytest.mark.parametrize(("name", "lang"), [("multi30k", "de"), ("multi30k", "fr"), ("multi30k", "cs"), ("multiscript30k", "ar")])
def test_complete_sources_have_every_line(real_folder: Path, name: str, lang: str) -> None:
    captions = read(real_folder, name, lang)
    assert len(captions.rows) == 29_000 + 1_014 + 1_000
    assert captions.notes == ()
