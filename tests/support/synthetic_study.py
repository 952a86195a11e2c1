"""A synthetic study: its configuration, and records in which every arm has its own skill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.digests import digest_strings
from harness.records.files import load_record
from harness.runtime.console import Console
from harness.statistics.matching import StoredRecord
from harness.study.collect import make_findings
from harness.study.contrasts import StudyRecords
from harness.study.design import StudyConfig
from harness.study.findings import Findings, LanguageSummary
from harness.study.grid import GridPosition, grid_positions
from tests.support.synthetic_records import Arm as MadeUp
from tests.support.synthetic_records import ImageIds, gallery, retrieval, synthetic_ranks, write_record

TIERS = {"qu": ("Quechua", 1), "gn": ("Guarani", 1), "sw": ("Swahili", 2), "de": ("German", 5)}
ARMS: list[dict[str, Any]] = [
    {"objective": "kd-mse"},
    {"objective": "kd-cosine"},
    {"objective": "ot-token"},
    {"objective": "kd-mse", "init": "association"},
    {"objective": "kd-mse", "init": "ot-vocabulary"},
    {"objective": "none", "init": "ot-vocabulary"},
]
SKILLS = {
    "kd-mse": 0.30,
    "kd-cosine": 0.26,
    "ot-token": 0.30,
    "kd-mse@association": 0.40,
    "kd-mse@ot-vocabulary": 0.50,
    "none@ot-vocabulary": 0.10,
}


def study(**changes: Any) -> StudyConfig:
    told: dict[str, Any] = {
        "title": "A made-up study",
        "lang": ["qu", "gn", "de"],
        "pairs": [100, "all"],
        "seeds": [0, 1, 2],
        "arms": ARMS,
        "resamples": 2000,
    }
    return StudyConfig.model_validate(told | changes)


def language_summary(lang: str, images: ImageIds, **changes: Any) -> LanguageSummary:
    name, tier = TIERS[lang]
    of = retrieval(lang, images)
    fields: dict[str, Any] = {"code": lang, "name": name, "script": "Latn", "tier": tier, "gallery": images.digest()}
    fields |= {"images": len(images.ids), "captions": len(of.captions), "source": of.source, "kind": of.kind, "sample": False}
    fields |= {"texts_digest": of.texts_digest(), "usable": 28_000, "dropped": 1000, "bitext": of.source, "bitext_kind": of.kind}
    fields |= {"notes": (), "floor": 1.0, "ceiling": 60.0, "chance": 100 / len(images.ids)}
    return LanguageSummary.model_validate(fields | changes)


def study_records(
    folder: Path,
    config: StudyConfig,
    skill: Callable[[GridPosition], float | None] = lambda place: SKILLS[place.arm],
    galleries: Mapping[str, ImageIds] | None = None,
    facets: Mapping[str, tuple[str, ...]] | None = None,
    **changes: Any,
) -> StudyRecords:
    """Write and read records of every grid position for which `skill` returns a number.

    galleries: of languages that have one of their own. facets: values that captions have in turn.
    """
    langs = config.lang.split(",")
    images = {lang: (galleries or {}).get(lang, gallery(200)) for lang in langs}
    grid = list(grid_positions(config, langs))
    done = {}
    for place in grid:
        share = skill(place)
        if share is None:
            continue
        (arm,) = (arm for arm in config.arms if arm.name == place.arm)
        made = MadeUp(arm.objective, share, pairs=place.pairs, changes=(("init", arm.init), *arm.options.items()))
        of = retrieval(place.lang, images[place.lang])
        turns = {
            name: tuple((of_all[k % len(of_all)],) for k in range(len(of.captions))) for name, of_all in (facets or {}).items()
        }
        of = replace(of, facets=turns)
        draw = [int(digest_strings([place.lang, place.arm, str(place.pairs)])[:8], 16), place.seed]
        ranks = synthetic_ranks(of.caption_images, len(of.images.ids), share, draw)
        path = write_record(folder, of, made, place.seed, ranks, **changes)
        done[place] = StoredRecord(path, load_record(path))
    shown = {lang: language_summary(lang, images[lang]) for lang in langs}
    return StudyRecords(config, shown, frozenset(grid), done)


def findings(of: StudyRecords, failed: Mapping[GridPosition, str] | None = None) -> Findings:
    return make_findings(of, failed or {}, (), Console())
