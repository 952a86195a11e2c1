"""The scorer of phrase grounding, and the views of image regions that scorers compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.core.data import Grounding, Retrieval
from harness.core.errors import HarnessError
from harness.core.protocols import RegionTask
from harness.retrieval.regions import RegionViews
from harness.retrieval.scorers.interface import PLAIN, Embedder, RetrievalResult, ScoredRun, ScorerFactory


@dataclass(frozen=True)
class RegionScorer:
    """The scorer of phrase grounding: the cosine of phrase and region."""

    views: RegionViews
    name: ClassVar[str] = PLAIN

    def cache_key_parts(self) -> list[object]:
        """Return the digest of the regions."""
        return [self.views.digest()]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank the regions of each phrase's image."""
        from harness.retrieval.grounding import ground

        assert isinstance(retrieval, Grounding)
        regions = embed.pictures(self.views, "regions")
        grounded = ground(embed.captions(retrieval), regions, retrieval, self.views.regions)
        columns = {"pointed": grounded.pointed, "found": grounded.found}
        return RetrievalResult(grounded.as_ranks, grounded.scores(), grounded.chance, columns)


def make_region_scorer(run: ScoredRun) -> ScorerFactory:
    """Return the factory of the only scorer of phrase grounding. Raises HarnessError if the run requests another one."""
    if run.config.scorer != PLAIN:
        raise HarnessError(
            f"--scorer {run.config.scorer} is for retrieval, and {run.task.card.name} is phrase grounding: leave it out"
        )
    views = load_region_views(run)
    return lambda retrieval: RegionScorer(views)  # noqa: ARG005


def load_region_views(run: ScoredRun) -> RegionViews:
    """Return the region views of a split's images. Raises HarnessError if the task's images have no regions."""
    config, task = run.config, run.task
    if not isinstance(task, RegionTask):
        raise HarnessError(f"--scorer {config.scorer} needs regions of the images, and {task.card.name} has none")
    return RegionViews(task.load_regions(run.data, config.split, config.grounding.candidates), config.grounding.view)
