"""`compare_records` over records made by hand: what is paired, what is refused, and figures that are known beforehand."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console as RichConsole

from harness.core.config import Config, DistillConfig, ExecutorConfig, GroundingConfig, RunConfig, validated
from harness.core.data import Ranks
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.records.files import load_facets
from harness.records.schema import Record
from harness.reporting.comparison_report import print_comparison, render_comparison
from harness.retrieval.ranking import chance_rates, retrieval_scores
from harness.statistics.comparison import compare_records
from harness.statistics.comparison_schema import Comparison, ComparisonLine, ComparisonOptions
from harness.statistics.inference import holm
from harness.statistics.matching import load_records, pair_records, resolve_records
from harness.statistics.measurement import Measurement
from harness.statistics.run_summary import tower_contrast
from tests.support.command_line import ROOT, harness
from tests.support.measurements import BITEXT, PROVENANCE, TOWER

RESULTS = ROOT / "leaderboards" / "results" / "flickr8k-subset-qu-1000"
IMAGES = 40


def write_record(folder: Path, ranks: Any, facets: dict[str, list[Any]] | None = None, **fields: Any) -> Path:
    """A record of `ranks`, one caption an image. Fields of the tower stand under `tower`, of the bitext and config within it."""
    tower = fields.pop("tower", None)
    t2i = np.asarray(ranks)
    images = [f"{i}.jpg" for i in range(len(t2i))]
    base = {
        "task": "flickr30k",
        "task_version": "1",
        "lang": "de",
        "split": "test",
        "source": "multi30k",
        "kind": "human translation",
    }
    base |= {
        "images_digest": "images",
        "texts_digest": fields.get("lang", "de"),
        "encoder": "clip",
        "encoder_fingerprint": "clip",
    }
    base |= {"text_tower": "english", "tower": None, "sample": False, "images": len(t2i), "captions": len(t2i)}
    if tower is not None:
        config = {"objective": fields["text_tower"], "seed": tower.get("seed", 0), **tower.get("config", {})}
        bitext = BITEXT | {"used": tower.get("used", 1000), "digest": tower.get("digest", "pairs")}
        made = TOWER | {"config": config, "bitext": bitext, "digest": digest_strings([folder.name]), **tower.get("card", {})}
        base |= {"tower": made}
    measured = Ranks(t2i, t2i)
    base |= {
        "scores": retrieval_scores(measured),
        "chance": chance_rates(np.arange(len(t2i)), len(t2i)),
        "provenance": PROVENANCE,
    }
    record = Record.model_validate(base | fields | {"cell": fields.get("cell", folder.name)})
    table = {"direction": ["t2i"] * len(t2i) + ["i2t"] * len(t2i), "query": [*(f"q{i}" for i in images), *images]}
    table |= {"image": images * 2, "rank": np.concatenate([t2i, t2i]).astype(np.int32)}
    for name, values in (facets or {}).items():
        table[f"facet:{name}"] = pa.array([*values, *[None] * len(t2i)], pa.list_(pa.string()))
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json(), encoding="utf-8")
    pq.write_table(pa.table(table), folder / "queries.parquet")
    return folder


def hit_first(count: int, images: int = IMAGES) -> list[int]:
    """Ranks of a tower that gets the first `count` images right."""
    return [1] * count + [20] * (images - count)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """KD and OT in German and Quechua, and the English tower without and with English captions."""
    folder = tmp_path / "records"
    for lang, kd, ot in (("de", 10, 22), ("qu", 12, 14)):
        write_record(folder / f"{lang}-kd", hit_first(kd), lang=lang, text_tower="kd-mse", tower={})
        write_record(folder / f"{lang}-ot", hit_first(ot), lang=lang, text_tower="ot-token", tower={})
        write_record(folder / f"{lang}-floor", hit_first(2), lang=lang)
    write_record(folder / "ceiling", hit_first(26), lang="en", source="multi30k (English side)")
    return folder


def lines_of(comparison: Comparison, section: int = 0, setting: int = 0) -> dict[str, ComparisonLine]:
    return {f"{line.by} {line.value}".strip(): line for line in comparison.settings[setting].sections[section].lines}


def asked(records: Path, a: str = "ot-token", b: str = "kd-mse", **question: Any) -> Comparison:
    return compare_records(a, b, records, ComparisonOptions(**{"resamples": 1000, **question}))


def test_scores_differences_counts_and_gaps_by_hand(records: Path) -> None:
    comparison = asked(records)
    lines = lines_of(comparison)
    german, pooled = lines["lang de"], lines["all"]
    assert (german.a.estimate, german.b.estimate, german.difference.estimate) == pytest.approx((55, 25, 30))
    assert (german.only_a, german.only_b, german.p_mcnemar) == (12, 0, pytest.approx(2 / 2**12))
    assert german.p_sign_flip == german.p_value == pytest.approx(2 / 2**12)  # 12 images differ: all 2^12 patterns are counted
    assert german.gap_a is not None
    assert german.gap_a.estimate == pytest.approx((22 - 2) / (26 - 2))
    assert (german.outcome, lines["lang qu"].outcome) == ("win", "tie")
    assert pooled.difference.estimate == pytest.approx((30 + 5) / 2)
    assert (pooled.only_a, pooled.p_mcnemar) == (14, None)
    assert [lines[f"lang {lang}"].p_holm for lang in ("de", "qu")] == holm([german.p_value, lines["lang qu"].p_value])
    section = comparison.settings[0].sections[0]
    assert (section.wins, section.ties, section.losses) == (1, 1, 0)
    assert comparison.settings[0].differences == ()


def test_the_other_way_round_is_the_negative(records: Path) -> None:
    there, back = lines_of(asked(records))["lang de"], lines_of(asked(records, "kd-mse", "ot-token"))["lang de"]
    assert there.difference.estimate == -back.difference.estimate  # type: ignore[operator]
    assert (there.p_value, there.outcome, back.outcome) == (back.p_value, "win", "loss")


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_figures_are_those_that_run_printed(direction: Any) -> None:
    ot, kd = ("4.6", "5.4") if direction == "t2i" else ("5.7", "7.1")
    comparison = asked(RESULTS, langs=("qu",), directions=(direction,), resamples=10_000)
    line = lines_of(comparison)["lang qu"]
    assert (f"{line.a.estimate:.1f}", f"{line.b.estimate:.1f}") == (ot, kd)
    pair = comparison.settings[0].paired[0]
    folders = {entry.record.cell: entry.folder for entry in load_records(RESULTS)}
    ours, theirs = (Measurement.read("", folders[cells[0]]) for cells in (pair.cells_a, pair.cells_b))
    run = tower_contrast(ours, theirs, direction, 10_000).difference
    assert line.p_value == run.p_value
    score = line.difference
    assert (score.estimate, score.low, score.high) == pytest.approx((run.estimate, run.low, run.high), abs=1e-9)
    assert line.error == pytest.approx(run.error)


def test_sizes_of_the_bitext_are_compared_apart_and_what_has_no_twin_is_named(records: Path) -> None:
    for size, objective in ((500, "kd-mse"), (500, "ot-token"), (250, "kd-mse")):
        write_record(
            records / f"{objective}{size}", hit_first(9), text_tower=objective, tower={"used": size, "config": {"pairs": size}}
        )
    comparison = asked(records)
    assert [setting.pairs for setting in comparison.settings] == [(500,), (1000,)]
    (left,) = comparison.unpaired
    assert (left.side, left.cell, left.reason) == ("B", "kd-mse250", "de: pairs 250 has no counterpart, only 1000, 500")
    assert [setting.pairs for setting in asked(records, pairs=500).settings] == [(500,)]
    assert [setting.pairs for setting in asked(records, "english").settings] == [(250,), (500,), (1000,)]


def test_the_english_tower_meets_every_language_it_reads(records: Path) -> None:
    comparison = asked(records, "kd-mse", "english")
    assert [pair.lang for pair in comparison.settings[0].paired] == ["de", "qu"]
    assert comparison.settings[0].differences == ("B is the encoder's own English tower, not distilled",)
    assert lines_of(comparison)["all"].gap_b is None
    assert [left.reason for left in comparison.unpaired] == ["the other side has no record in en"]


def test_seeds_in_common_are_paired_and_both_variances_are_shown(records: Path) -> None:
    random = np.random.default_rng(0)
    for seed in (1, 2, 3):
        for objective, rate in (("kd-mse", 0.3), ("ot-token", 0.5)):
            if (seed, objective) == (3, "kd-mse"):
                continue
            ranks = np.where(random.random(IMAGES) < rate, 1, 20)
            write_record(records / f"{objective}-seed{seed}", ranks, text_tower=objective, tower={"seed": seed})
    comparison = asked(records, langs=("de",))
    (pair,) = comparison.settings[0].paired
    assert pair.seeds_a == pair.seeds_b == (0, 1, 2)
    assert [left.reason for left in comparison.unpaired] == ["de: seed 3 is on one side only"]
    line = lines_of(comparison)["lang de"]
    assert line.image_error is not None
    assert line.seed_error is not None
    assert line.p_value >= line.p_sign_flip
    assert line.p_mcnemar is None
    assert "s.e. seeds" in render_comparison(comparison, "text")


def test_each_weight_of_entities_is_compared_with_the_tower_that_has_none(records: Path) -> None:
    for weight, right in ((2.0, 11), (5.0, 15)):
        config = {"objective": "ot-entity", "entity_weight": weight}
        write_record(records / f"de-{weight}", hit_first(right), text_tower="ot-entity", tower={"config": config})
    comparison = compare_records("ot-entity", "kd-mse", records, ComparisonOptions())
    assert [setting.differences for setting in comparison.settings] == [(), ()]
    lines = [setting.sections[0].lines[0] for setting in comparison.settings]
    assert sorted(line.difference.estimate for line in lines) == pytest.approx([2.5, 12.5])


def test_what_a_training_found_out_for_itself_does_not_part_its_seeds(tmp_path: Path) -> None:
    """Seeds of one recipe may have been tuned to other learning rates, and may have lost patience after other steps."""
    trials = [{"learning_rate": rate, "score": 1.0} for rate in (3e-4, 1e-3, 3e-3)]
    for seed, (rate, steps) in enumerate([(3e-4, 400), (3e-3, 300), (1e-3, 500)]):
        for name, hits in (("kd-mse", 10), ("ot-token", 20 + seed)):
            config = {"tune": True, "learning_rate": rate if name == "kd-mse" else 1e-3, "held_out": 9, "patience": 2}
            tower = {"seed": seed, "config": config, "card": {"tuning": trials, "steps": steps if name == "kd-mse" else 600}}
            write_record(tmp_path / f"{name}-{seed}", hit_first(hits), text_tower=name, tower=tower)
    comparison = asked(tmp_path)
    (setting,) = comparison.settings
    assert setting.paired[0].seeds_a == setting.paired[0].seeds_b == (0, 1, 2)
    assert setting.differences == ()
    assert comparison.unpaired == ()


def test_towers_that_were_not_trained_alike_are_compared_and_it_is_said(records: Path) -> None:
    tower = {"used": 900, "digest": "others", "config": {"learning_rate": 0.01}}
    write_record(records / "other", hit_first(5), text_tower="ot-batch", tower=tower)
    comparison = asked(records, "ot-batch")
    said = comparison.settings[0].differences
    assert said == ("pairs 900 and 1000", "learning rate 0.01 and 0.001", "bitext others and pairs")
    assert "other differences: pairs 900 and 1000; learning rate" in render_comparison(comparison, "text")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sample": True}, "the embedded sample is not comparable with real photographs"),
        ({"texts_digest": "others"}, "de: different captions"),
        ({"images_digest": "others"}, "de: different images"),
        ({"source": "xflickrco", "texts_digest": "others"}, "de: different caption source and captions"),
        ({"lang": "eu"}, "the other side has no record in eu"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(fields: dict[str, Any], reason: str, records: Path) -> None:
    write_record(records / "odd", hit_first(5), text_tower="ot-batch", tower={}, **fields)
    with pytest.raises(HarnessError, match=f"no record of A can be paired .*: .*{reason}"):
        asked(records, "ot-batch", "kd-mse")


def test_a_record_is_not_compared_with_itself(records: Path) -> None:
    with pytest.raises(HarnessError, match="A and B are the same record"):
        asked(records, "kd-mse", "kd-mse")


@pytest.mark.parametrize("written", [0, 0.0, -0.0, None])
def test_a_number_is_one_value_however_a_record_has_it(written: float | None, records: Path) -> None:
    """None: not at all, as records have it that were made before there was the option."""
    for path in records.glob("qu-*/record.json"):
        record = json.loads(path.read_bytes())
        if record["tower"]:
            record["tower"]["config"]["spelling"] = written
            if written is None:
                del record["tower"]["config"]["spelling"]
            path.write_text(json.dumps(record))
    (setting,) = asked(records, "ot-token", "kd-mse").settings
    assert [paired.lang for paired in setting.paired] == ["de", "qu"]


@pytest.mark.parametrize("kind", [DistillConfig, RunConfig, GroundingConfig, ExecutorConfig])
def test_a_default_is_of_its_fields_type(kind: type[Config]) -> None:
    made = kind(lang="de") if kind is RunConfig else kind()
    floats = [name for name, field in kind.model_fields.items() if field.annotation is float]
    assert [name for name in floats if type(getattr(made, name)) is not float] == []
    assert kind is not DistillConfig or len(floats) > 9


def test_an_infinite_option_is_refused() -> None:
    """JSON has no word for it: the tower's card could not be read back."""
    with pytest.raises(HarnessError, match="--sentence-weight inf: Input should be a finite number"):
        validated(DistillConfig, sentence_weight=math.inf)


def test_folders_digests_and_objectives_name_records(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    first = write_record(folder / "a", hit_first(9), text_tower="kd-mse", tower={}, cell="abcdef01" + "0" * 56)
    write_record(folder / "b", hit_first(9), text_tower="ot-token", tower={}, cell="abcdef02" + "0" * 56)
    known = load_records(folder)
    assert [entry.record.text_tower for entry in resolve_records("abcdef01", known)] == ["kd-mse"]
    assert resolve_records(str(first), []) == resolve_records("kd-mse", known)
    assert resolve_records(str(folder), []) == known
    digest = known[0].record.tower.digest  # type: ignore[union-attr]
    assert resolve_records(digest[:20], known) == [known[0]]
    with pytest.raises(HarnessError, match=r"cell abcdef010000.*, cell abcdef020000.*; give more digits"):
        resolve_records("abcdef", known)
    with pytest.raises(HarnessError, match="no record of a cell or tower whose digest starts with 123456"):
        resolve_records("123456", known)
    with pytest.raises(HarnessError, match="did you mean kd-mse"):
        resolve_records("kd-msee", known)
    with pytest.raises(HarnessError, match=r"'ot-batch', only .*kd-mse, ot-token"):
        resolve_records("ot-batch", known)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"hold no record\.json"):
        resolve_records(str(tmp_path / "empty"), known)


def test_the_gap_of_records_given_by_folder_needs_no_store(records: Path, tmp_path: Path) -> None:
    comparison = compare_records(
        str(records / "de-ot"), str(records / "de-kd"), tmp_path / "nothing", ComparisonOptions(resamples=200)
    )
    gap = lines_of(comparison)["lang de"].gap_b
    assert gap is not None
    assert gap.estimate == pytest.approx((10 - 2) / (26 - 2))


def test_order_of_records_does_not_matter(records: Path) -> None:
    entries = load_records(records)
    sides = [[entry for entry in entries if entry.record.text_tower == name] for name in ("ot-token", "kd-mse")]
    assert pair_records(*sides) == pair_records(*(side[::-1] for side in sides))


def facet_records(folder: Path) -> Path:
    types = [["people", "animals"] if i < 20 else ["animals"] if i < 30 else None for i in range(IMAGES)]
    for objective, count in (("kd-mse", 10), ("ot-token", 25)):
        write_record(folder / objective, hit_first(count), facets={"entity-type": types}, text_tower=objective, tower={})
    return folder


def test_facets_are_read_back(tmp_path: Path) -> None:
    folder = facet_records(tmp_path)
    assert load_facets(folder / "kd-mse")["entity-type"][18:31] == [("people", "animals")] * 2 + [("animals",)] * 10 + [()]


def test_breakdown_by_facet_tier_and_source(tmp_path: Path) -> None:
    lines = lines_of(asked(facet_records(tmp_path), by=("entity-type", "tier", "source")))
    assert lines["entity-type people"].queries == 20
    assert lines["entity-type people"].difference.estimate == 50
    assert lines["entity-type animals"].queries == 30
    assert lines["entity-type animals"].difference.estimate == pytest.approx(50)
    assert {"all", "tier 5", "source multi30k"} < lines.keys()
    assert lines["entity-type people"].p_holm == max(lines[f"entity-type {name}"].p_holm for name in ("people", "animals"))


def test_facets_that_are_not_there_are_named(records: Path) -> None:
    with pytest.raises(HarnessError, match=r"--by entity-type: .* no such facet"):
        asked(records, by=("entity-type",))
    with pytest.raises(HarnessError, match="use --direction t2i"):
        asked(records, by=("entity-type",), directions=("i2t",))


def test_json_is_full_precision_and_the_same_bytes_each_time(records: Path) -> None:
    text = render_comparison(asked(records), "json")
    assert text == render_comparison(asked(records), "json")
    assert Comparison.model_validate_json(text) == asked(records)


def test_markdown_and_latex_hold_the_cells_and_escape_hostile_names(records: Path) -> None:
    for name in ("hostile-kd", "hostile-ot"):
        tower = "kd-mse" if name.endswith("kd") else "ot-token"
        write_record(records / name, hit_first(7), lang="eu", source="a|b_<i>&%#{$", text_tower=tower, tower={})
    comparison = asked(records, by=("lang", "source"))
    tables = [line for line in render_comparison(comparison, "markdown").splitlines() if line.startswith("|")]
    assert len({re.sub(r"\\\|", "", line).count("|") for line in tables}) == 1
    assert r"a\|b\_\<i\>\&%\#\{\$" in "".join(tables)
    latex = render_comparison(comparison, "latex")
    assert r"a\textbar{}b\_\textless{}i\textgreater{}\&\%\#\{\$" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert "+30.0 {[}" in latex


def test_the_command_writes_what_the_suffix_says(records: Path, tmp_path: Path) -> None:
    words = ("compare", "ot-token", "kd-mse", "--records", str(records), "--resamples", "200")
    done = harness(*words, "--out", str(tmp_path / "c.json"), store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["resamples"] == 200
    printed = harness(
        *words,
        store=tmp_path,
        code="import sys; from harness.cli.app import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)",
    )
    assert printed.returncode == 0, printed.stderr
    assert "ot-token ahead in 1, kd-mse ahead in 0, inconclusive in 1" in printed.stdout
    refused = harness(*words, "--out", str(tmp_path / "c.doc"), store=tmp_path)
    assert refused.returncode == 1
    assert re.fullmatch(r"error: --out .*c\.doc: .*\.txt, \.json, \.md, \.tex; .*\n", refused.stderr)


def test_no_digit_is_cut_off_on_a_narrow_terminal(records: Path) -> None:
    out = RichConsole(file=io.StringIO(), width=80, highlight=False)
    print_comparison(asked(records), out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "12 : 0" in text
    assert render_comparison(asked(records), "text").count("only A : only B") == 1
