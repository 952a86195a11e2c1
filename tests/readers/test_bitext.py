"""Readers of bitext from user files: every form, gzip, damaged files, columns, and cleaning."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import RunConfig
from harness.core.data import Bitext, HeldOut, Language
from harness.core.errors import HarnessError, MissingError
from harness.distill.data.cleaning import LONGEST_SENTENCE, clean, is_looping, is_mostly_in_script
from harness.distill.data.leakage import GuardedBitext
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.readers.bitext import _tmx, load_bitext_file, load_bitext_folder, load_monolingual_texts
from harness.tasks.flickr30k import Flickr30k
from tests.support.flickr30k_folders import write_lines

TASK = Flickr30k()
SWAHILI = TASK.language("sw")
LISTED = HeldOut(frozenset(), frozenset(), images=frozenset({"31"}))
PAIRS = [("A dog runs.", "Mbwa anakimbia."), ("A cat sleeps.", "Paka analala.")]
TMX = """<?xml version="1.0" encoding="UTF-8"?>
<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="EN-GB"><seg>A <hi>dog</hi> <bpt i="1">&lt;b&gt;</bpt>runs.</seg></tuv>
<tuv xml:lang="sw-KE"><seg>Mbwa anakimbia.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Only English.</seg></tuv><tuv xml:lang="de"><seg>Nur Deutsch.</seg></tuv></tu>
<tu><tuv lang="swh"><seg>Paka analala.</seg></tuv><tuv lang="en"><seg>A cat sleeps.</seg></tuv></tu>
</body></tmx>
"""


def pairs(bitext: Bitext) -> list[tuple[str, str]]:
    return list(zip(bitext.english, bitext.foreign, strict=True))


def ready(config: RunConfig, folder: Path, language: Language) -> GuardedBitext:
    (guarded,) = load_guarded_bitext(TASK, folder, [language], config)
    return guarded


def packed(path: Path) -> Path:
    into = path.with_name(path.name + ".gz")
    into.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return into


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_lines(tmp_path / "own.tsv", ["\t".join(PAIRS[0]), "", "\t".join((*PAIRS[1], "31_ab.jpg"))])
    write_lines(tmp_path / "wiki.en", [english for english, _ in PAIRS])
    write_lines(tmp_path / "wiki.swh", [foreign for _, foreign in PAIRS])
    (tmp_path / "web.tmx").write_text(TMX, encoding="utf-8")
    return tmp_path


# forms


@pytest.mark.parametrize("name", ["own.tsv", "wiki", "wiki.en", "wiki.swh", "web.tmx"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_form_is_read_plain_and_gzip(files: Path, name: str, zipped: bool) -> None:
    if zipped:
        for path in list(files.iterdir()):
            packed(path)
    bitext = load_bitext_file(files / name, SWAHILI, LISTED)
    assert pairs(bitext) == PAIRS
    assert (bitext.lang, bitext.kind) == ("sw", "unstated")
    assert bitext.image_ids == (("", "31") if name == "own.tsv" else ("", ""))
    if zipped and "." in name:
        assert pairs(load_bitext_file(files / f"{name}.gz", SWAHILI)) == PAIRS


def test_pairs_are_unchanged(files: Path) -> None:
    write_lines(files / "own.tsv", [" A  dog .\t MBWA\u2028x "])
    assert pairs(load_bitext_file(files / "own.tsv", SWAHILI)) == [(" A  dog .", " MBWA\u2028x ")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("own.tsv", "no tab", r"own\.tsv, line 1: expected English, tab, translation"),
        ("own.tsv", "a\tb\tc\td", r"own\.tsv, line 1: expected English, tab, translation"),
        ("own.tsv", "", r"own\.tsv has no sentence pair of English and Swahili, whose codes are sw, swa, swh, swh_latn"),
        ("wiki.swh", "just one", r"wiki\.en has 2 lines and wiki\.swh has 1: "),
        ("web.tmx", TMX[:300], r"web\.tmx is not a complete TMX file: "),
        ("web.tmx", TMX.replace("sw", "xx"), r"web\.tmx has no sentence pair of English and Swahili"),
        (
            "web.tmx",
            '<!DOCTYPE t [<!ENTITY a "boom"><!ENTITY b "&a;&a;&a;">]><tmx><body><tu>&b;</tu></body></tmx>',
            r"web\.tmx is not a complete TMX file: EntitiesForbidden",
        ),
    ],
)
def test_an_invalid_file_is_a_one_line_error(files: Path, name: str, content: str, complaint: str) -> None:
    (files / name).write_text(content, encoding="utf-8")
    with pytest.raises(HarnessError, match=complaint) as caught:
        load_bitext_file(files / name, SWAHILI)
    assert "\n" not in str(caught.value)


def test_a_tmx_is_not_held_in_memory(tmp_path: Path) -> None:
    unit = '<tu><tuv xml:lang="en"><seg>{0}</seg></tuv><tuv xml:lang="sw"><seg>{0}</seg></tuv></tu>'.format("word " * 200)
    (tmp_path / "big.tmx").write_text("<tmx><body>" + unit * 4_000 + "</body></tmx>", encoding="utf-8")
    tracemalloc.start()
    try:
        assert sum(1 for _ in _tmx(tmp_path / "big.tmx", SWAHILI)) == 4_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000, "of 9 million bytes"
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_named(files: Path) -> None:
    with pytest.raises(HarnessError, match=r"mine\.tsv does not exist: --bitext takes a \.tsv, a \.tmx, or a Moses pair"):
        load_bitext_file(files / "mine.tsv", SWAHILI)
    with pytest.raises(HarnessError, match=r"wiki\.cy does not exist: a Moses corpus is a pair of files"):
        load_bitext_file(files / "wiki.en", TASK.language("cy"))


def test_all_bitext_of_a_language_in_a_folder_is_read(flickr30k_folder: Path, files: Path) -> None:
    folder = flickr30k_folder / "bitext"
    files.joinpath("own.tsv").rename(files / "sw.tsv")
    folder.mkdir()
    for path in files.glob("*.*"):
        if path.is_file():
            path.rename(folder / path.name)
    bitext = TASK.load_bitext(flickr30k_folder, "sw")
    assert pairs(bitext) == PAIRS * 3
    assert bitext.source == "sw.tsv + wiki.swh + web.tmx"
    assert TASK.load_bitext(flickr30k_folder, "de").source == "multi30k", "a caption source comes first"
    with pytest.raises(MissingError, match=r"no Welsh \(cy\) captions for bitext: .*bitext has no cy\.tsv, no \*\.en with"):
        TASK.load_bitext(flickr30k_folder, "cy")
    with pytest.raises(MissingError):
        load_bitext_folder(flickr30k_folder / "nowhere", SWAHILI)


# languages in names and segments


@pytest.mark.parametrize(
    ("english", "foreign", "lang"),
    [
        ("train.eng", "train.swh", "sw"),
        ("w.eng_Latn", "w.swh_Latn", "sw"),
        ("w.EN", "w.SW", "sw"),
        ("w.en-GB", "w.sw-KE", "sw"),
        ("w.en", "w.zh-TW", "zh-Hant"),
        ("w.en", "w.zho_Hans", "zh"),
        ("w.en", "w.zh_CN.gz", "zh"),
        ("w{}.en", "w{}.pt_BR", "pt"),
    ],
)
@pytest.mark.parametrize("asked", ["english", "foreign", "stem"])
def test_moses_files_are_found_by_any_code_in_any_case(tmp_path: Path, english: str, foreign: str, lang: str, asked: str) -> None:
    write_lines(tmp_path / english, [text for text, _ in PAIRS])
    write_lines(tmp_path / foreign.removesuffix(".gz"), [text for _, text in PAIRS])
    if foreign.endswith(".gz"):
        packed(tmp_path / foreign.removesuffix(".gz"))
    name = {"english": english, "foreign": foreign, "stem": english.rpartition(".")[0]}[asked]
    assert pairs(load_bitext_file(tmp_path / name, TASK.language(lang))) == PAIRS
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bitext").symlink_to(tmp_path)
    assert load_bitext_folder(tmp_path / "data", TASK.language(lang)).source == foreign


def test_a_folder_s_tsv_may_have_any_code_of_the_language(tmp_path: Path) -> None:
    write_lines(tmp_path / "bitext" / "swh_Latn.tsv", ["\t".join(pair) for pair in PAIRS])
    assert pairs(load_bitext_folder(tmp_path, SWAHILI)) == PAIRS


@pytest.mark.parametrize(
    ("lang", "found"), [("zh", ["hans"]), ("zh-Hant", ["hant"]), ("pt", ["br"]), ("sr", ["cyrl"]), ("sw", None), ("yue", None)]
)
def test_segments_of_another_script_are_another_language(tmp_path: Path, lang: str, found: list[str] | None) -> None:
    said = {"en-US": "A dog", "zh-TW": "hant", "zh-CN": "hans", "pt-BR": "br", "sr-Latn": "latn", "sr-Cyrl-RS": "cyrl"}
    unit = "".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in said.items())
    (tmp_path / "x.tmx").write_text(f"<tmx><body><tu>{unit}</tu></body></tmx>", encoding="utf-8")
    assert [pair.foreign for pair in _tmx(tmp_path / "x.tmx", TASK.language(lang))] == (found or [])


@pytest.mark.parametrize("space", ['xmlns="http://www.lisa.org/tmx14"', 'xmlns="urn:x" xmlns:t="urn:y"'])
def test_a_tmx_may_have_a_namespace(files: Path, space: str) -> None:
    (files / "web.tmx").write_text(TMX.replace('<tmx version="1.4"', f'<tmx {space} version="1.4"'), encoding="utf-8")
    assert pairs(load_bitext_file(files / "web.tmx", SWAHILI)) == PAIRS


def test_texts_are_found_by_any_code(tmp_path: Path) -> None:
    write_lines(tmp_path / "eng_Latn.txt", ["A dog."])
    write_lines(tmp_path / "swh_Latn.txt", ["Mbwa."])
    assert load_monolingual_texts(tmp_path, SWAHILI) == (["A dog."], ["Mbwa."])


@pytest.mark.parametrize("name", ["own.tsv", "wiki.swh", "web.tmx"])
def test_a_line_of_megabytes_is_no_sentence(files: Path, name: str) -> None:
    text = (files / name).read_text(encoding="utf-8").replace("Mbwa anakimbia.", "w" * 5_000_000)
    (files / name).write_text(text, encoding="utf-8")
    with pytest.raises(HarnessError, match=r"(line|unit) 1: the sentence has 5,\d{3},\d{3} characters, expected at most 10,000"):
        load_bitext_file(files / name, SWAHILI)


# columns

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTED = ("sufuri", "moja", "mbili", "tatu", "nne", "tano", "sita", "saba", "nane", "tisa")


def sentences(number: int) -> tuple[str, str]:
    """Return a sentence that is unique to a number, and its translation."""
    digits = [int(digit) for digit in f"{number:03}"]
    return (
        " ".join(["The", *(COUNTS[digit] for digit in digits), "dogs are in the water", *["again"] * (number % 5)]),
        " ".join(["Mbwa", *(COUNTED[digit] for digit in digits), "wako majini", *["tena"] * (number % 5)]),
    )


@pytest.fixture
def leaky(flickr30k_folder: Path) -> Path:
    """Return a folder with 500 training and 200 test images. The captions are the sentences of pairs 0 to 199."""
    images = [
        {"filename": f"{1000 + k}.jpg", "split": "test" if k < 200 else "train", "sentences": [{"raw": sentences(k)[0].upper()}]}
        for k in range(500)
    ]
    (flickr30k_folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    write_lines(flickr30k_folder / "captions" / "sw.tsv", [f"{1000 + k}.jpg#0\t{sentences(k)[1]} ." for k in range(500)])
    return flickr30k_folder


IGNORED = "column {} of x.tsv is not an image id of this data set; it is ignored"
TAKEN = "x.tsv: column {} is taken for English and column {} for Swahili"
FORMS = {
    "two columns": ("{en}\t{sw}", ()),
    "attribution": ("{en}\t{sw}\tCC-BY 2.0 (France) Attribution: tatoeba.org #{k} (CK)", (IGNORED.format(3),)),
    "label": ("{en}\t{sw}\tcaptions of the web", (IGNORED.format(3),)),
    "score": ("{en}\t{sw}\t0.{k}", (IGNORED.format(3),)),
    "unknown id": ("{en}\t{sw}\t77{k}.jpg", (IGNORED.format(3),)),
    "id": ("{en}\t{sw}\t{id}", ()),
    "file": ("{en}\t{sw}\tflickr30k-images/{id}.jpg", ()),
    "caption id": ("{en}\t{sw}\t{id}.jpg#0", ()),
    "id first": ("{id}.jpg\t{en}\t{sw}", (TAKEN.format(2, 3),)),
    "score first": ("0.{k}\t{en}\t{sw}", (TAKEN.format(2, 3), IGNORED.format(1))),
    "unknown id first": ("line-{k}\t{en}\t{sw}", (TAKEN.format(2, 3), IGNORED.format(1))),
    "swapped": ("{sw}\t{en}", (TAKEN.format(2, 1),)),
    "name between": ("{en}\tspeaker {k}\t{sw}", (TAKEN.format(1, 3), IGNORED.format(2))),
    "tatoeba": ("{k}\t{en}\t9{k}\t{sw}", (TAKEN.format(2, 4), IGNORED.format(1), IGNORED.format(3))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("leak", ["both sides", "English", "foreign"])
def test_the_guard_finds_captions_in_every_form_of_a_table(leaky: Path, form: str, leak: str) -> None:
    """Of 500 pairs, 200 have test captions. The other side of near copies is reworded."""
    line, notes = FORMS[form]
    rows = []
    for k in range(500):
        english, foreign = sentences(k)
        english = english if leak != "foreign" or k >= 200 else english.replace("dogs are", "hounds stand")
        foreign = foreign if leak != "English" or k >= 200 else foreign.replace("Mbwa", "Majibwa")
        # An id of a training image, as a slip or a lie would have it, hides nothing.
        rows.append(line.format(en=english, sw=foreign, k=k, id=1000 + (k if k % 2 else 499)))
    write_lines(leaky / "x.tsv", rows)
    config = RunConfig(lang="sw", data=leaky, bitext=leaky / "x.tsv", clean=False)
    guarded = ready(config, leaky, SWAHILI)
    assert (guarded.offered, guarded.dropped) == (500, 200)
    assert guarded.bitext.english == tuple(sentences(k)[0] for k in range(200, 500))
    assert guarded.bitext.foreign == tuple(sentences(k)[1] for k in range(200, 500))
    assert guarded.bitext.notes[:-1] == notes
    said = guarded.bitext.notes[-1]
    assert said.startswith("the leakage guard dropped 200 pairs of x.tsv (sw): ")
    assert ("100 by image id" in said) == ("{id}" in line)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("english\tswahili", "{en}\t{sw}"),
        ("swa\teng", "{sw}\t{en}"),
        ("id\tsource\ttarget", "{k}\t{en}\t{sw}"),
        ("en\tfr\tsw\timage", "{en}\tLe chien est ici\t{sw}\t12.jpg"),
        ("#English\tKiswahili", "{en}\t{sw}"),
        ('"swh_Latn"\t"note"\t"eng_Latn"', "{sw}\tin the file\t{en}"),
    ],
)
def test_a_header_names_the_columns_and_is_no_pair(tmp_path: Path, head: str, line: str) -> None:
    write_lines(tmp_path / "x.tsv", [head, *(line.format(en=en, sw=sw, k=k) for k, (en, sw) in enumerate(PAIRS))])
    assert pairs(load_bitext_file(tmp_path / "x.tsv", SWAHILI)) == PAIRS


@pytest.mark.parametrize(
    "lines",
    [
        ["dog\tmbwa", "cat\tpaka"],
        ["1\tA dog runs."],
        ["A dog runs.\tThe dog runs.", "A cat is in the house.\tThe cat is in a house."],
        ["A dog runs.\tMbwa anakimbia.\tHund läuft", "The cat.\tPaka.\tKatze"],
        ["A dog runs.\t0.87"],
        ["Mbwa\x1b[31m anakimbia.\t" + "x" * 900],
        ["en\tde", "A dog runs.\tEin Hund läuft."],
        ["A dog runs.\tMbwa anakimbia.", "The cat.\tPaka.\t\t\t"],
        ["A dog runs.\tMbwa anakimbia.", "The cat."],
        ["\t" * 1_000_000],
    ],
)
def test_unrecognized_columns_are_refused_in_one_line(tmp_path: Path, lines: list[str]) -> None:
    write_lines(tmp_path / "x.tsv", lines)
    with pytest.raises(HarnessError, match=r"x\.tsv, line \d: ") as caught:
        load_bitext_file(tmp_path / "x.tsv", SWAHILI)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert str(caught.value).isprintable()


def test_a_header_resolves_unrecognized_columns(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.tsv", ["dog\tmbwa", "cat\tpaka"])
    with pytest.raises(HarnessError, match=r"not 'dog', 'mbwa'; .* in a header: en, tab, sw, and image for image ids"):
        load_bitext_file(tmp_path / "x.tsv", SWAHILI)
    write_lines(tmp_path / "x.tsv", ["en\tsw", "dog\tmbwa", "cat\tpaka"])
    assert pairs(load_bitext_file(tmp_path / "x.tsv", SWAHILI)) == [("dog", "mbwa"), ("cat", "paka")]


def test_ids_that_the_list_does_not_have_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.tsv", [f"{en}\t{sw}\t{id}" for (en, sw), id in zip(PAIRS, ("31.jpg", "99.jpg"), strict=True)])
    bitext = load_bitext_file(tmp_path / "x.tsv", SWAHILI, LISTED)
    assert bitext.image_ids == ("31", "")
    note = "1 image ids of x.tsv are not in this data set; these pairs are judged by their sentences alone"
    assert bitext.notes == (note,)


def test_a_new_wording_of_published_english_beside_a_test_caption_is_a_leak(flickr30k_folder: Path) -> None:
    """The guard reads every source of the language in the folder, not only the measured one."""
    write_lines(flickr30k_folder / "captions" / "de.tsv", ["33\tEigener Text ."])
    held_out = TASK.held_out(flickr30k_folder, "de")
    assert held_out.foreign == {"Eigener Text .", *(f"Bildtext von {name}." for name in ("21", "31", "32", "33"))}
    assert held_out.images == {"11", "12", "21", "31", "32", "33"}
    write_lines(flickr30k_folder / "x.tsv", ["Words of the user.\teigener text", "The dog is there.\tEin Hund ist dort."])
    guarded = ready(RunConfig(lang="de", bitext=flickr30k_folder / "x.tsv"), flickr30k_folder, TASK.language("de"))
    assert (guarded.dropped, pairs(guarded.bitext)) == (1, [("The dog is there.", "Ein Hund ist dort.")])


# cleaning


def bitext_of(*given: tuple[str, str]) -> Bitext:
    english, foreign = zip(*given, strict=True)
    return Bitext("de", "own", "unstated", english, foreign, ("",) * len(given), ("a note",))


def test_every_reason_is_counted_once() -> None:
    good = [("A dog.", "Ein Hund."), ("Two cats.", "Zwei Katzen.")]
    bad = [
        ("", "Ein Satz."),
        ("A sentence.", " "),
        ("Long.", "Lang " * 100),
        ("A loop.", "und dann und dann und dann und dann"),
        ("A dog.", "Собака."),
        ("1234", "1234"),
        ("Berlin!", "berlin"),
        ("a dog", "ein hund!"),
    ]
    cleaned = clean(bitext_of(good[0], *bad, good[1]), "Latn")
    assert pairs(cleaned) == good
    assert cleaned.notes == (
        "a note",
        f"cleaning left out 8 of 10 pairs: 2 empty, 1 over {LONGEST_SENTENCE} characters, 1 looping, 2 in another script, "
        "1 the same as their English, 1 duplicates",
    )


def test_clean_bitext_is_the_same_bitext() -> None:
    bitext = bitext_of(("A dog.", "Ein Hund."))
    assert clean(bitext, "Latn") is bitext


def test_empty_bitext_after_cleaning_is_an_error() -> None:
    with pytest.raises(HarnessError, match=r"no pair of own \(de\) is left once it is cleaned: 1 in another script"):
        clean(bitext_of(("A dog.", "Ein Hund.")), "Arab")


@pytest.mark.parametrize("unit", ["ima ", "und dann ", "犬が", "der Mann mit dem roten Hut und "])
def test_loops_are_four_in_a_row(unit: str) -> None:
    assert is_looping("Ein Text: " + (unit * 4).strip())
    assert not is_looping("Ein Text: " + (unit * 3).strip())


@given(st.text(max_size=60))
def test_any_line_can_be_judged(text: str) -> None:
    assert is_looping(text) in (True, False)
    assert not (is_mostly_in_script("Latn", text) and is_mostly_in_script("Arab", text)) or len(text) > 1


@pytest.mark.parametrize("script", sorted({language.script for language in TASK.languages().values()}))
def test_every_script_of_the_languages_is_known(script: str) -> None:
    assert not is_mostly_in_script(script, "123 ...")
    assert is_mostly_in_script(script, "A dog") == (script == "Latn")


# in a plan


def test_only_bitext_of_unstated_making_is_cleaned_unless_asked_for(flickr30k_folder: Path, files: Path) -> None:
    german = TASK.language("de")
    config = RunConfig(lang="de", data=flickr30k_folder)
    raw = ready(config, flickr30k_folder, german)
    assert (raw.offered, raw.dropped, raw.bitext.notes) == (3, 1, ())
    write_lines(flickr30k_folder / "multi30k/data/task1/raw/train.de", ["Bild", "Bild", "Haus"])
    write_lines(flickr30k_folder / "multi30k/data/task1/raw/train.en", ["A picture", "A picture", "A house"])
    assert len(ready(config, flickr30k_folder, german).bitext) == 2
    asked = ready(config.model_copy(update={"clean": True}), flickr30k_folder, german)
    assert (asked.offered, asked.dropped, len(asked.bitext)) == (3, 1, 1), "what the guard counts is the same"
    write_lines(files / "own.tsv", ["A dog.\tMbwa.", "A dog.\tMbwa.", "A cat.\tPaka.\t31", "Caption 1 of 21.\tPicha."])
    own = RunConfig(lang="sw", data=flickr30k_folder, bitext=files / "own.tsv")
    cleaned = ready(own, flickr30k_folder, SWAHILI)
    assert (cleaned.offered, cleaned.dropped, pairs(cleaned.bitext)) == (4, 2, [("A dog.", "Mbwa.")])
    assert cleaned.bitext.notes == (
        "the leakage guard dropped 2 pairs of own.tsv (sw): 1 by image id, 1 by English sentence",
        "cleaning left out 1 of 2 pairs: 1 duplicates",
    )
    kept = ready(own.model_copy(update={"clean": False}), flickr30k_folder, SWAHILI)
    assert len(kept.bitext) == 2


# the real folder


@pytest.mark.real
@pytest.mark.parametrize(("lang", "long"), [("qu", 411), ("ay", 263)])
def test_real_looping_translations_are_counted(real_folder: Path, lang: str, long: int) -> None:
    """411 and 263 lines of these two files have more than 400 characters."""
    cleaned = clean(TASK.load_bitext(real_folder, lang), "Latn")
    assert f"{long:,} over 400 characters" in cleaned.notes[-1]
