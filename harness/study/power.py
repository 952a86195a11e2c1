"""Power of a study before it runs, from the records of a measured one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Doubles
from harness.core.errors import HarnessError
from harness.statistics.matching import StoredRecord
from harness.statistics.methods.planning import VarianceComponents, power, seeds_for_power, variance_components
from harness.study.contrasts import StudyRecords
from harness.study.design import StudyConfig

if TYPE_CHECKING:
    from rich.table import Table

_SEEDS = (2, 3, 5, 8, 10)


@dataclass(frozen=True)
class Pilot:
    """Variance components of a measured study.

    languages: of single languages. means: of the mean over its languages; None for one language. images: their number. pairs: the
    number of pairs of arms and languages.
    """

    languages: VarianceComponents
    means: VarianceComponents | None
    images: int
    pairs: int


def measure_pilot(evidence: StudyRecords) -> Pilot:
    """Return the variance components of transport arms minus arms without transport, pooled over arms, languages and sizes.

    Raises HarnessError if no pair of arms has two seeds of one language.
    """
    single, pooled = [], []
    for tables in paired_tables(evidence):
        single += tables
        if len(tables) > 1:
            pooled.append(np.mean(tables, axis=0))
    if not single:
        raise HarnessError("the pilot has no transport arm and arm without transport with two common seeds of one language")
    return Pilot(variance_components(single), variance_components(pooled) if pooled else None, single[0].shape[1], len(single))


def paired_tables(evidence: StudyRecords) -> Iterator[list[Doubles]]:
    """Yield, for each pair of arms and gallery, the differences (seeds, images) of each language with all seeds."""
    config = evidence.config
    for pairs in config.sizes:
        for langs in evidence.galleries(pairs):
            for arm in config.on("transport"):
                for rival in config.rivals:
                    sides = [
                        [evidence.entries(name, lang, pairs, config.seeds) for name in (arm.name, rival.name)] for lang in langs
                    ]
                    whole = [both for both in sides if all(len(side) == len(config.seeds) > 1 for side in both)]
                    if len(whole) == len(langs):
                        yield [image_differences(evidence, *both) for both in whole]


def image_differences(evidence: StudyRecords, a: Sequence[StoredRecord], b: Sequence[StoredRecord]) -> Doubles:
    """Return the differences of the hits of two arms, in percent, by seed and image (seeds, images)."""
    direction = evidence.config.direction

    def hits(entries: Sequence[StoredRecord]) -> Doubles:
        rows = []
        for entry in entries:
            tower = evidence.read(entry.record.text_tower, entry.folder)
            clusters = tower.clusters(direction)
            summed = np.bincount(clusters, weights=tower.hits(direction)[:, 0])
            rows.append(summed[np.unique(clusters)] / np.bincount(clusters)[np.unique(clusters)])
        return np.stack(rows)

    found: Doubles = hits(a) - hits(b)
    return found


def power_table(config: StudyConfig, pilot: Pilot, differences: Sequence[float]) -> Table:
    """Return the power of a design for true differences in points, by the number of seeds."""
    from harness.runtime.console import plain_table

    langs = config.lang.split(",")
    means = pilot.means is not None and len(langs) > 1 and config.primary != "languages"
    components = pilot.means if means and pilot.means else pilot.languages
    tests = len(config.on("transport")) * len(config.sizes) * (1 if means else len(langs))
    rows = []
    for difference in differences:
        shares = [f"{power(difference, components, pilot.images, seeds, tests):.0%}" for seeds in _SEEDS]
        needed = seeds_for_power(difference, components, pilot.images, tests)
        rows.append((f"{difference:g}", *shares, "more than 50" if needed is None else str(needed)))
    about = "means over languages" if means else "single languages"
    parts = f"images {components.image:.1f}, seeds {components.seed:.2f}, rest {components.rest:.1f} points"
    title = (
        f"Power of {config.title}: {about}, {pilot.images:,} images, {tests} tests; standard deviations {parts}, "
        f"from {pilot.pairs} pairs of arms"
    )
    return plain_table(title, ("true difference", *(f"{seeds} seeds" for seeds in _SEEDS), "seeds for 80 %"), rows)
