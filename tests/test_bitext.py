"""Bitext from the user's own files: every form, gzip, what is broken, and what cleaning leaves out."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest
from conftest import write_lines
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Bitext, HarnessError, Language, MissingError
from harness.config import RunConfig
from harness.distill.bitext import Guarded
from harness.distill.cleaning import LONGEST, clean, loops, mostly_in
from harness.plan import guarded_bitext
from harness.tasks.bitext import _tmx, load_bitext_file, load_bitext_folder
from harness.tasks.flickr30k import Flickr30k

TASK = Flickr30k()
SWAHILI = TASK.language("sw")
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
def test_every_form_is_read_plain_and_packed(files: Path, name: str, zipped: bool) -> None:
    if zipped:
        for path in list(files.iterdir()):
            packed(path)
    bitext = load_bitext_file(files / name, SWAHILI)
    assert pairs(bitext) == PAIRS
    assert (bitext.lang, bitext.kind) == ("sw", "unstated")
    assert bitext.image_ids == (("", "31") if name == "own.tsv" else ("", ""))
    if zipped and "." in name:
        assert pairs(load_bitext_file(files / f"{name}.gz", SWAHILI)) == PAIRS


def test_pairs_stay_as_they_stand(files: Path) -> None:
    write_lines(files / "own.tsv", [" A  dog .\t MBWA\u2028x "])
    assert pairs(load_bitext_file(files / "own.tsv", SWAHILI)) == [(" A  dog .", " MBWA\u2028x ")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("own.tsv", "no tab", r"own\.tsv, line 1: expected English, tab, translation"),
        ("own.tsv", "a\tb\tc\td", r"own\.tsv, line 1: expected English, tab, translation"),
        ("own.tsv", "", r"own\.tsv has no pair of English and Swahili: its codes are sw, swa, swh, swh_latn"),
        ("wiki.swh", "just one", r"wiki\.en has 2 lines and wiki\.swh 1: line i translates line i"),
        ("web.tmx", TMX[:300], r"web\.tmx is not a whole TMX file: "),
        ("web.tmx", TMX.replace("sw", "xx"), r"web\.tmx has no pair of English and Swahili"),
        (
            "web.tmx",
            '<!DOCTYPE t [<!ENTITY a "boom"><!ENTITY b "&a;&a;&a;">]><tmx><body><tu>&b;</tu></body></tmx>',
            r"web\.tmx is not a whole TMX file: EntitiesForbidden",
        ),
    ],
)
def test_what_cannot_be_right_is_one_line(files: Path, name: str, content: str, complaint: str) -> None:
    (files / name).write_text(content, encoding="utf-8")
    with pytest.raises(HarnessError, match=complaint) as caught:
        load_bitext_file(files / name, SWAHILI)
    assert "\n" not in str(caught.value)


def test_a_tmx_is_not_held_in_memory(tmp_path: Path) -> None:
    unit = '<tu><tuv xml:lang="en"><seg>{0}</seg></tuv><tuv xml:lang="sw"><seg>{0}</seg></tuv></tu>'.format("word " * 200)
    (tmp_path / "big.tmx").write_text("<tmx><body>" + unit * 4_000 + "</body></tmx>", encoding="utf-8")
    tracemalloc.start()
    try:
        assert sum(1 for _ in _tmx(tmp_path / "big.tmx", {"sw"})) == 4_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000, "of 9 million bytes"
    finally:
        tracemalloc.stop()


def test_what_is_not_there_is_named(files: Path) -> None:
    with pytest.raises(HarnessError, match=r"mine\.tsv is not there: --bitext takes a \.tsv, a \.tmx, or Moses' pair"):
        load_bitext_file(files / "mine.tsv", SWAHILI)
    with pytest.raises(HarnessError, match=r"wiki\.cy is not there: Moses' form is a pair of files"):
        load_bitext_file(files / "wiki.en", TASK.language("cy"))


def test_a_folder_gives_all_it_has_of_a_language(flickr30k_folder: Path, files: Path) -> None:
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
        f"cleaning left out 8 of 10 pairs: 2 empty, 1 over {LONGEST} characters, 1 looping, 2 in another script, "
        "1 the same as their English, 1 duplicates",
    )


def test_clean_bitext_is_the_same_bitext() -> None:
    bitext = bitext_of(("A dog.", "Ein Hund."))
    assert clean(bitext, "Latn") is bitext


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(HarnessError, match=r"no pair of own \(de\) is left once it is cleaned: 1 in another script"):
        clean(bitext_of(("A dog.", "Ein Hund.")), "Arab")


@pytest.mark.parametrize("unit", ["ima ", "und dann ", "犬が", "der Mann mit dem roten Hut und "])
def test_loops_are_four_in_a_row(unit: str) -> None:
    assert loops("Ein Text: " + (unit * 4).strip())
    assert not loops("Ein Text: " + (unit * 3).strip())


@given(st.text(max_size=60))
def test_a_line_is_judged_whatever_is_in_it(text: str) -> None:
    assert loops(text) in (True, False)
    assert not (mostly_in("Latn", text) and mostly_in("Arab", text)) or len(text) > 1


@pytest.mark.parametrize("script", sorted({language.script for language in TASK.languages().values()}))
def test_every_script_of_the_languages_is_known(script: str) -> None:
    assert not mostly_in(script, "123 ...")
    assert mostly_in(script, "A dog") == (script == "Latn")


# in a plan


def ready(config: RunConfig, folder: Path, language: Language) -> Guarded:
    (guarded,) = guarded_bitext(TASK, folder, [language], config)
    return guarded


def test_only_bitext_of_unstated_making_is_cleaned_unless_asked_for(flickr30k_folder: Path, files: Path) -> None:
    german = TASK.language("de")
    config = RunConfig(lang="de", data=flickr30k_folder)
    raw = ready(config, flickr30k_folder, german)
    assert (raw.offered, raw.dropped, raw.bitext.notes) == (3, 1, ())
    write_lines(flickr30k_folder / "multi30k/data/task1/raw/train.de", ["Bild", "Bild", "Bild"])
    write_lines(flickr30k_folder / "multi30k/data/task1/raw/train.en", ["A picture", "A picture", "A picture"])
    assert len(ready(config, flickr30k_folder, german).bitext) == 2
    asked = ready(config.model_copy(update={"clean": True}), flickr30k_folder, german)
    assert (asked.offered, asked.dropped, len(asked.bitext)) == (3, 1, 1), "what the guard counts is the same"
    write_lines(files / "own.tsv", ["A dog.\tMbwa.", "A dog.\tMbwa.", "A cat.\tPaka.\t31", "Caption 1 of 21.\tPicha."])
    own = RunConfig(lang="sw", data=flickr30k_folder, bitext=files / "own.tsv")
    cleaned = ready(own, flickr30k_folder, SWAHILI)
    assert (cleaned.offered, cleaned.dropped, pairs(cleaned.bitext)) == (4, 2, [("A dog.", "Mbwa.")])
    assert cleaned.bitext.notes == ("cleaning left out 1 of 2 pairs: 1 duplicates",)
    kept = ready(own.model_copy(update={"clean": False}), flickr30k_folder, SWAHILI)
    assert len(kept.bitext) == 2


# the real folder


@pytest.mark.real
@pytest.mark.parametrize(("lang", "long"), [("qu", 411), ("ay", 263)])
def test_real_looping_translations_are_counted(real_folder: Path, lang: str, long: int) -> None:
    """411 and 263 lines of these two are known to be over 400 characters long."""
    cleaned = clean(TASK.load_bitext(real_folder, lang), "Latn")
    assert f"{long:,} over 400 characters" in cleaned.notes[-1]
