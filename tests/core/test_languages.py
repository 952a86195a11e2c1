"""Which languages `--lang` means, and the closing table of a run over several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core.config import RunConfig
from harness.core.errors import HarnessError
from harness.core.languages import select_languages
from harness.evaluation.planning import make_plans
from harness.reporting.multilingual import (
    CEILING_COLUMN,
    FLOOR_COLUMN,
    LanguageReport,
    holm_by_language,
    multilingual_table,
    significance_lines,
)
from harness.statistics.inference import holm
from harness.statistics.measurement import DIRECTIONS
from harness.statistics.run_summary import summarise
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.command_line import harness
from tests.support.flickr30k_folders import MULTI30K, write_lines
from tests.support.measurements import table

TASK = Flickr30k()
TINY = ("--pairs", "200", "--steps", "2", "--batch", "32", "--resamples", "200")


def codes(text: str) -> list[str]:
    return [language.code for language, _ in select_languages(TASK, text)]


# what a term means


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("de,fr", ["de", "fr"]),
        (" German , swh_Latn,yo ", ["de", "sw", "yo"]),
        ("de,deu,German", ["de"]),
        ("en", ["en"]),
        ("script:Ethi", ["am", "ti"]),
        ("sw,script:ethi", ["sw", "am", "ti"]),
        ("tier:5", ["ar", "de", "es", "fr", "ja", "zh", "zh-Hant"]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


def test_groups() -> None:
    languages = TASK.languages()
    assert len(codes("all")) == len(languages) - 1 == 200
    low = codes("tier:0-2")
    assert {"qu", "sw", "awa"} <= set(low)
    assert all(languages[code].tier in (0, 1, 2) for code in low)
    assert [languages[code].tier for code in codes("tier:?")] == [None] * len(codes("tier:?"))
    assert "en" not in codes("script:Latn") + codes("tier:0-5")


def test_only_what_is_named_must_be_there() -> None:
    assert [(language.code, named) for language, named in select_languages(TASK, "script:Ethi,am")] == [
        ("am", True),
        ("ti", False),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("germn", r"unknown language 'germn': did you mean German \(de\)"),
        ("de,tier:9", "--lang tier:9: a tier is 0 to 5"),
        ("tier:low", "--lang tier:low: a tier is 0 to 5"),
        ("script:Arabic", "--lang script:Arabic: .* did you mean Arab"),
        ("family:Bantu", "--lang family:Bantu: a group of languages is all, tier:0-2 or script:Arab"),
        (" , ", "names no language"),
    ],
)
def test_a_term_that_means_nothing_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(HarnessError, match=complaint):
        select_languages(TASK, text)


# plans


def config(folder: Path, lang: str, **more: str) -> RunConfig:
    return RunConfig(lang=lang, data=folder, encoder="open_clip:ViT-B-32/none", **more)


class _Named:
    """An encoder that is only asked for its name and its methods."""

    name = "stub"

    def encode_tokens(self, texts: Sequence[str], lang: str) -> None: ...

    def donate_layers(self) -> None: ...

    def fingerprint(self) -> str:
        return "stub"


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.planning.load_encoder", lambda *_: _Named())


def test_a_group_passes_over_what_the_folder_lacks(flickr30k_folder: Path, tmp_path: Path) -> None:
    plans, absent = make_plans(config(flickr30k_folder, "all"), Store(tmp_path))
    assert [plan.language.code for plan in plans] == ["de", "qu"]
    assert len(absent) == 198
    assert [cell.retrieval.lang for cell in plans[1].cells] == ["qu", "qu", "qu", "qu", "en", "en"]
    with pytest.raises(HarnessError, match="has captions in none of the 2 languages of --lang script:Ethi"):
        make_plans(config(flickr30k_folder, "script:Ethi"), Store(tmp_path))


def test_what_is_named_must_be_there(flickr30k_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"has no Swahili \(sw\) captions for the test split"):
        make_plans(config(flickr30k_folder, "all,sw"), Store(tmp_path))


def test_what_is_broken_is_not_passed_over(flickr30k_folder: Path, tmp_path: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["no tab"])
    with pytest.raises(HarnessError, match=r"sw\.tsv, line 1"):
        make_plans(config(flickr30k_folder, "all"), Store(tmp_path))


def test_captions_without_bitext_are_measured_and_the_plan_says_why_nothing_is_distilled(
    flickr30k_folder: Path, tmp_path: Path
) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31\tmaelezo", "33\tmaelezo mengine"])
    ((plan,), _) = make_plans(config(flickr30k_folder, "sw"), Store(tmp_path))
    assert [cell.label for cell in plan.cells] == ["English tower on Swahili", "English tower, all captions"]
    assert plan.remark.startswith("nothing is distilled into Swahili: ")
    assert "captions/sw.tsv (which has no training file" in plan.remark
    english = plan.cells[1].retrieval
    assert english.images.ids == plan.cells[0].retrieval.images.ids == ("31", "33")
    assert english.captions == tuple(f"Caption {k} of {name}." for name in ("31", "33") for k in (0, 1))
    assert english.caption_images.tolist() == [0, 0, 1, 1]


def test_one_source_can_be_named(flickr30k_folder: Path, tmp_path: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "de.tsv", [f"{name}\teigener Text {name}" for name in MULTI30K["val"] + ["31"]])
    ((plan,), _) = make_plans(config(flickr30k_folder, "de", source="own-captions"), Store(tmp_path))
    assert plan.cells[0].retrieval.source == "own-captions"
    assert plan.cells[1].recipe is not None
    assert plan.cells[1].recipe.bitext.source == "multi30k", "bitext comes from where it is"
    with pytest.raises(HarnessError, match="unknown caption source 'own-caption': did you mean own-captions"):
        make_plans(config(flickr30k_folder, "de", source="own-caption"), Store(tmp_path))
    with pytest.raises(HarnessError, match=r"multi30k has no Quechua \(qu\); the sources with it are own-multi30k, "):
        make_plans(config(flickr30k_folder, "qu", source="multi30k"), Store(tmp_path))


# the closing table


def report(language: str) -> LanguageReport:
    towers = table()
    return LanguageReport(language, towers, [summarise(towers, direction, 100) for direction in DIRECTIONS])


def test_p_values_are_corrected_over_all_languages() -> None:
    reports = [report(name) for name in ("German", "Swahili", "Welsh")]
    raw = [report.contrasts(side)[0].difference.p_value for side in DIRECTIONS for report in reports]
    assert [p for side in DIRECTIONS for (p,) in holm_by_language(reports, side)] == holm(raw)
    assert significance_lines(reports, "t2i") == [
        "text → image: 0 of 3 differ at 0.05 (p after Holm over all languages and directions)"
    ]


def test_the_closing_table_has_a_row_a_language() -> None:
    drawn = multilingual_table([report("German"), report("Swahili")], "t2i")
    headings = [str(column.header) for column in drawn.columns]
    assert headings == ["language", "images", FLOOR_COLUMN, "kd-mse", "ot-token", "ot-token − kd-mse", "p (Holm)"]
    cells = {str(column.header): list(column.cells) for column in drawn.columns}
    assert list(map(str, cells["language"])) == ["German", "Swahili"]
    assert [str(text).split(" ")[0] for text in cells["ot-token"]] == ["50.0", "50.0"]
    assert [str(text).split(" ")[0] for text in cells["ot-token − kd-mse"]] == ["+25.0", "+25.0"]


def test_a_language_without_towers_has_dashes() -> None:
    bare = LanguageReport("Amharic", table()[:1], [summarise(table()[:1], direction, 100) for direction in DIRECTIONS])
    drawn = multilingual_table([report("German"), bare], "i2t")
    assert [list(column.cells)[1] for column in drawn.columns][3:] == ["—", "—", "—", "—"]
    assert CEILING_COLUMN not in [column.header for column in drawn.columns]


@pytest.mark.slow
def test_a_run_over_two_languages_embeds_images_once(tmp_path: Path) -> None:
    done = harness("run", "--lang", "de,Welsh", *TINY, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("embeds images: 400 images in") == 1
    assert done.stdout.count("R@k in percent") == 2
    assert re.search(r"\n German +400 .*\n Welsh +400 ", done.stdout)
    again = harness("run", "--lang", "de,Welsh", *TINY, "--dry-run", store=tmp_path)
    assert again.stdout.count(" done") == 10, "English is measured once for both"
