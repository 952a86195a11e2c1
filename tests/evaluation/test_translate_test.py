"""The tower translate-test: translations from files and translators, and its rows in a run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.builtins import TRANSLATORS, load_translator
from harness.core.config import RunConfig
from harness.core.data import Retrieval
from harness.core.errors import HarnessError
from harness.core.registry import Registry
from harness.encoders.hugging_face.translation import LoadedTranslator
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import measure_plan
from harness.evaluation.translate_test import MachineTranslations, with_translations
from harness.leaderboards.board.model import BoardTower
from harness.leaderboards.board.page_data import repeat_command
from harness.leaderboards.records.submission import check_record
from harness.readers.translations import read_translations
from harness.runtime.console import Console
from harness.statistics.comparison import compare_records
from harness.statistics.comparison_schema import ComparisonOptions
from harness.statistics.measurement import Measurement
from harness.statistics.run_summary import summarise
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.command_line import ROOT
from tests.support.flickr30k_folders import write_lines
from tests.support.plugin_files import harness
from tests.support.translators import small

ENGLISH = {"31": "One.", "32": "Two.", "33": "Three."}


@pytest.fixture
def german(flickr30k_folder: Path) -> Retrieval:
    return Flickr30k().load(flickr30k_folder, "de", "test")


def xflickr(folder: Path, sentences: dict[str, str]) -> Path:
    rows: list[dict[str, Any]] = [
        {"sentences": [text], "id": name, "img_path": f"{name}.jpg"} for name, text in sentences.items()
    ]
    rows.append({"sentences": ["Of COCO."], "id": 7, "img_path": "COCO_val2014_000000000007.jpg"})
    path = folder / "test.jsonl"
    write_lines(path, [json.dumps(row) for row in rows])
    return path


# files


@pytest.mark.parametrize("names", [("31#0", "32#0", "33#0"), ("31", "32", "33"), ("31.jpg", "32_5ec2e7.jpg#0", "33")])
def test_a_table_names_captions_or_images(german: Retrieval, names: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "de.tsv"
    write_lines(
        path, ["99\tOf no image of ours.", "", *(f"{name}\t{text}" for name, text in zip(names, ENGLISH.values(), strict=True))]
    )
    found = read_translations(path, german)
    assert found.english == ("One.", "Two.", "Three.")
    assert found.notes == ()
    packed = tmp_path / "packed.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_translations(packed, german) == found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["31\tOne.", "33\tThree."], r"de.tsv has no translation of 1 of 3 de captions; the first is '32#0'"),
        (["31 One."], r"de.tsv, line 1: expected caption id, tab, English"),
        (["31\tOne.", "32\tTwo.", "31#0\tAgain."], r"de.tsv, line 3: the caption '31#0' has a translation already"),
    ],
)
def test_an_invalid_table_is_named(lines: list[str], message: str, german: Retrieval, tmp_path: Path) -> None:
    path = tmp_path / "de.tsv"
    write_lines(path, lines)
    with pytest.raises(HarnessError, match=message):
        read_translations(path, german)


def test_an_image_with_several_captions_is_ambiguous(flickr30k_folder: Path, tmp_path: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31\tMoja.", "31\tMbili.", "32\tTatu.", "33\tNne."])
    retrieval = Flickr30k().load(flickr30k_folder, "sw", "test")
    path = tmp_path / "sw.tsv"
    write_lines(path, ["31.jpg\tOne."])
    with pytest.raises(HarnessError, match=r"line 1: '31' has 2 captions: give caption ids such as 31#0"):
        read_translations(path, retrieval)
    write_lines(path, ["31#1\tTwo.", "31#0\tOne.", "32\tThree.", "33\tFour."])
    assert read_translations(path, retrieval).english == ("One.", "Two.", "Three.", "Four.")


def test_an_empty_translation_is_allowed(german: Retrieval, tmp_path: Path) -> None:
    path = tmp_path / "de.tsv"
    write_lines(path, ["31\tOne.", "32\t", "33\tThree."])
    found = read_translations(path, german)
    assert found.english == ("One.", "", "Three.")
    assert found.notes == ("1 of 3 translations of de.tsv are empty",)


def test_xflickr_s_own_file_translates_xflickr_s_captions_alone(
    flickr30k_folder: Path, tmp_path: Path, german: Retrieval
) -> None:
    """Multi30k's German caption of an image differs from xFlickr&CO's, although both have the image's id."""
    xflickr(flickr30k_folder / "xFlickrCO" / "annotations" / "de", {name: f"Satz {name}." for name in ENGLISH})
    path = xflickr(tmp_path, ENGLISH)
    retrieval = Flickr30k().load(flickr30k_folder, "de", "test", "xflickrco")
    assert read_translations(path, retrieval).english == ("One.", "Two.", "Three.")
    with pytest.raises(HarnessError, match="but the captions are from multi30k: add --source xflickrco"):
        read_translations(path, german)
    with path.open("a") as file:
        file.write('{"sentences": [], "id": "31"}\n')
    with pytest.raises(HarnessError, match=r"test.jsonl, line 5: expected"):
        read_translations(path, retrieval)


def test_unknown_and_missing_files_are_errors(german: Retrieval, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"de.tsv does not exist: --translations takes a .tsv"):
        read_translations(tmp_path / "de.tsv", german)
    write_lines(tmp_path / "de.txt", ["31\tOne."])
    with pytest.raises(HarnessError, match=r"de.txt: --translations takes a .tsv"):
        read_translations(tmp_path / "de.txt", german)


# translators


class Shouting:
    """A translator that returns capitals and counts its calls."""

    name = "shouting"

    def __init__(self, argument: str = "", device: str = "cpu") -> None:
        self.argument = argument
        self.calls: list[int] = []

    def fingerprint(self) -> str:
        return f"shouting {self.argument}"

    def translate(self, texts: Sequence[str], lang: str) -> Sequence[str]:
        self.calls.append(len(texts))
        if self.argument == "short":
            return list(texts)[:-1]
        return [None if self.argument == "nothing" else text.upper() for text in texts]  # type: ignore[misc]


def test_translations_are_cached(german: Retrieval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.translate_test._TEXTS_A_CALL", 2)
    store, translator = Store(tmp_path), Shouting()
    english = MachineTranslations(translator).english(german, store, Console())
    assert english == ("BILDTEXT VON 31.", "BILDTEXT VON 32.", "BILDTEXT VON 33.")
    assert MachineTranslations(translator).english(german, store, Console()) == english
    assert translator.calls == [2, 1], "two at a time, so that a stopped run resumes"
    MachineTranslations(other := Shouting("loud")).english(german, store, Console())
    assert other.calls == [2, 1], "a translator with the same name and another fingerprint differs"


@pytest.mark.parametrize(
    ("how", "message"), [("short", "returned 2 texts for 3"), ("nothing", "returned NoneType; expected a text")]
)
def test_an_invalid_translator_output_is_an_error(how: str, message: str, german: Retrieval, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=f"the translator shouting {message}"):
        MachineTranslations(Shouting(how)).english(german, Store(tmp_path), Console())
    assert not (tmp_path / "translations").exists()


def test_an_object_that_is_not_a_translator_is_named() -> None:
    registry: Registry[Any] = Registry("translator", {})
    registry.register("nothing", lambda *given: given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.core.builtins.TRANSLATORS", registry)
        with pytest.raises(HarnessError, match=r"nothing is no translator: .* lacks name, translate, fingerprint"):
            load_translator("nothing", "cpu")
    assert "nothing" not in TRANSLATORS.names()


class Echo:
    """Replaces a model with random weights, which repeats itself. It returns its inputs and records its options."""

    device = "cpu"

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def generate(self, **options: Any) -> Any:
        self.asked.append(options)
        return options["input_ids"]


@pytest.mark.parametrize("kind", ["nllb", "pair"])
def test_hugging_face_models_translate_every_text_in_order(kind: str, tmp_path: Path) -> None:
    translator = load_translator(small(tmp_path / "model", kind), "cpu")
    texts = ["a dog runs", "the red cat sits on the red grass", "a", "a dog runs on grass"] * 10
    assert translator.translate(texts, "de") == [translator.translate([text], "de")[0] for text in texts]
    loaded = translator.loaded  # type: ignore[attr-defined]
    translator.loaded = LoadedTranslator(echo := Echo(), loaded.tokenizer)  # type: ignore[attr-defined]
    echoed = translator.translate(texts, "de")
    assert echoed == texts or kind == "nllb"  # whose subwords here are none of these words
    assert [len(asked["input_ids"]) for asked in echo.asked] == [32, 8]
    assert not any(asked["do_sample"] for asked in echo.asked)
    assert ("forced_bos_token_id" in echo.asked[0]) == (kind == "nllb")
    assert translator.fingerprint() == load_translator(translator.name, "cpu").fingerprint()


def test_a_multilingual_model_gets_its_source_language_and_english(tmp_path: Path) -> None:
    translator = load_translator(small(tmp_path / "model", "nllb"), "cpu")
    tokenizer = translator.loaded.tokenizer  # type: ignore[attr-defined]
    translator.loaded = LoadedTranslator(echo := Echo(), tokenizer)  # type: ignore[attr-defined]
    known = tokenizer.get_vocab()
    for lang, mark in (("de", "deu_Latn"), ("qu", "quy_Latn"), ("de", "deu_Latn")):
        translator.translate(["a dog runs"], lang)
        assert echo.asked[-1]["input_ids"][0, 0] == known[mark]
        assert echo.asked[-1]["forced_bos_token_id"] == known["eng_Latn"]
    with pytest.raises(HarnessError, match="starts every text with a language mark, and has none for cs"):
        translator.translate(["a"], "cs")


def test_a_folder_without_a_translation_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds no config"):
        load_translator(f"hf:{tmp_path}", "cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match="transformers cannot load"):
        load_translator(f"hf:{tmp_path}", "cpu").translate(["a"], "de")


# a run


@pytest.fixture
def measured(flickr30k_folder: Path, tmp_path: Path) -> Callable[..., tuple[list[Measurement], Store]]:
    """Return a function that measures every German cell of a run with translations in this process."""

    def measure(**choices: Any) -> tuple[list[Measurement], Store]:
        store = Store(tmp_path / "store")
        config = RunConfig(lang="de", data=str(flickr30k_folder), encoder="random", objectives=(), device="cpu", **choices)
        (plan,), _ = make_plans(config, store)
        measure_plan(plan, store, Console())
        return [Measurement.read(cell.label, store.record(cell.key)) for cell in plan.cells], store

    return measure


def table(folder: Path, name: str, english: dict[str, str]) -> str:
    write_lines(folder / name, [f"{image}\t{text}" for image, text in english.items()])
    return str(folder / name)


def test_translate_test_is_the_english_tower_on_the_translations(measured: Any, tmp_path: Path) -> None:
    """If the translations are the English captions, their ranks equal those of English on the same captions."""
    towers, store = measured(translations=table(tmp_path, "de.tsv", {n: f"Caption 1 of {n}." for n in ENGLISH}))
    by_label = {tower.label: tower for tower in towers}
    assert list(by_label) == [
        "English tower on German",
        "translate-test (de.tsv)",
        "English tower, same captions",
        "English tower, all captions",
    ]
    ours, ceiling = by_label["translate-test (de.tsv)"], by_label["English tower, same captions"]
    assert ours.ranks.t2i.tolist() == ceiling.ranks.t2i.tolist()
    assert ours.ranks.i2t.tolist() == ceiling.ranks.i2t.tolist()
    record = ours.record
    assert (record.text_tower, record.lang, record.tower) == ("translate-test", "de", None)
    assert record.translations is not None
    assert record.translations.source == "de.tsv"
    assert record.texts_digest == towers[0].record.texts_digest, "it has the same queries, so the towers can be compared"
    assert [gap.label for gap in summarise(towers, "t2i", 200).gaps] == ["translate-test (de.tsv)"]
    assert check_record(store.record(record.cell)) == record
    assert BoardTower.from_record(record).method == "translate-test (de.tsv)"
    assert BoardTower.from_record(towers[0].record).method == "English tower"
    (setting,) = compare_records("translate-test", "english", store.root / "records", ComparisonOptions(resamples=200)).settings
    assert setting.differences == (
        "A is the English tower on translations by de.tsv",
        "B is the encoder's own English tower, not distilled",
    )


def test_translations_decide_the_cell_and_their_file_name_does_not(measured: Any, tmp_path: Path) -> None:
    first = measured(translations=table(tmp_path, "a.tsv", ENGLISH))[0][1].record
    again = measured(translations=table(tmp_path, "b.tsv", ENGLISH))[0][1].record
    other = measured(translations=table(tmp_path, "a.tsv", ENGLISH | {"33": "Four."}))[0][1].record
    assert first.cell == again.cell != other.cell
    assert first.text_tower == other.text_tower


def test_a_translator_and_a_file_are_two_rows(measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Any] = Registry("translator", {})
    registry.register("shouting", Shouting)
    monkeypatch.setattr("harness.core.builtins.TRANSLATORS", registry)
    towers, _ = measured(translations=table(tmp_path, "de.tsv", ENGLISH), translator="shouting")
    assert [tower.label for tower in towers[1:3]] == ["translate-test (de.tsv)", "translate-test (shouting)"]
    assert towers[1].record.cell != towers[2].record.cell
    assert [repeat_command(tower.record)[1] for tower in towers[1:3]] == [
        " --split test --encoder random --arms '' --translations de.tsv",
        " --split test --encoder random --arms '' --translator shouting",
    ]


def test_damaged_translations_are_made_again(german: Retrieval, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, translator = Store(tmp_path), Shouting()
    english = MachineTranslations(translator).english(german, store, Console())
    (path,) = (tmp_path / "translations").glob("*.json")
    path.write_text(path.read_text(encoding="utf-8").replace("31", "13"), encoding="utf-8")
    assert MachineTranslations(translator).english(german, store, Console()) == english
    assert translator.calls == [3, 3]
    assert "is damaged (it is not what was written): it is computed again" in capsys.readouterr().err


def test_translated_captions_keep_their_queries(german: Retrieval) -> None:
    asked = with_translations(german, ("One.", "Two.", "Three."))
    assert (asked.captions, asked.lang, asked.caption_ids) == (("One.", "Two.", "Three."), "en", german.caption_ids)


def test_english_is_not_translated(flickr30k_folder: Path, tmp_path: Path) -> None:
    config = RunConfig(lang="en", data=str(flickr30k_folder), encoder="random", translator="hf:x")
    with pytest.raises(HarnessError, match="translate-test is for captions in other languages than English: name one in --lang"):
        make_plans(config, Store(tmp_path))


def test_one_file_is_not_read_for_two_languages(flickr30k_folder: Path, tmp_path: Path) -> None:
    config = RunConfig(lang="de,qu", data=str(flickr30k_folder), encoder="random", objectives=(), translations="x.tsv")
    with pytest.raises(HarnessError, match=r"--translations x.tsv is one file for 2 languages: put \{lang\} where"):
        make_plans(config, Store(tmp_path))
    for code in ("de", "qu"):
        table(tmp_path, f"{code}.tsv", ENGLISH)
    plans, _ = make_plans(config.model_copy(update={"translations": str(tmp_path / "{lang}.tsv")}), Store(tmp_path))
    assert [plan.cells[1].label for plan in plans] == ["translate-test ({lang}.tsv)"] * 2


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"scorer": "entities"}, "--scorer entities takes phrases from the captions, which translate-test does not read"),
        ({"scorer": "csls:banked"}, "needs translations of the val captions, which translate-test does not have: use csls:trans"),
        ({"encoder": "features:FILE"}, "holds embeddings by id and cannot read translations: translate-test needs a model"),
    ],
)
def test_translations_that_do_not_fit_are_errors(
    choices: dict[str, str], message: str, tmp_path: Path, flickr30k_folder: Path
) -> None:
    kinds = {"kind": ["text"], "id": ["1"], "lang": ["de"], "embedding": np.ones((1, 2))}
    np.savez(tmp_path / "made.npz", **kinds)
    (flickr30k_folder / "Sentences").mkdir()
    (flickr30k_folder / "proposals").mkdir()
    for image in ("31", "32", "33"):
        (flickr30k_folder / "proposals" / f"{image}.json").write_text('{"boxes": [[0, 0, 4, 4]], "scores": [1.0]}')
    fixed = {name: value.replace("FILE", str(tmp_path / "made.npz")) for name, value in choices.items()}
    options: dict[str, Any] = {"encoder": "random", "grounding": {"candidates": "proposals"}, **fixed}
    config = RunConfig(
        lang="de", data=str(flickr30k_folder), objectives=(), translations=table(tmp_path, "a.tsv", ENGLISH), **options
    )
    with pytest.raises(HarnessError, match=message):
        make_plans(config, Store(tmp_path))


def test_the_documented_translator_is_the_example() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"```python\n{(ROOT / 'examples' / 'glossary.py').read_text(encoding='utf-8')}```" in page


@pytest.mark.slow
def test_the_example_translator_runs_from_its_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "words.tsv", ["ein\ta", "eine\ta", "hund\tdog", "mann\tman", "frau\twoman", "und\tand"])
    words = (
        "--lang",
        "de",
        "--split",
        "val",
        "--objectives",
        "",
        "--resamples",
        "200",
        "--plugin",
        str(ROOT / "examples" / "glossary.py"),
    )
    done = harness("run", *words, "--translator", "glossary:words.tsv", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert " translate-test (glossary:words.tsv) " in done.stdout
    listed = harness("list", "translators", "--plugin", str(ROOT / "examples" / "glossary.py"), store=tmp_path)
    assert "glossary" in listed.stdout
    unknown = harness("run", *words, "--translator", "glosary:words.tsv", store=tmp_path)
    assert "no translator is called 'glosary': did you mean glossary?" in unknown.stderr
