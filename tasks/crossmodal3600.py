"""The task crossmodal3600: Crossmodal-3600, images from all over the world with captions in 36 languages."""

from __future__ import annotations

from harness.core.data import TaskCard
from harness.tasks.evaluation_sets import EvaluationSet

CROSSMODAL3600_CARD = TaskCard(
    name="crossmodal3600",
    version="1",
    title="Crossmodal-3600: 3,600 images from all over the world, captions in 36 languages",
    splits=("test",),
    licence="CC BY 4.0",
    source="https://open-images-dataset.s3.amazonaws.com/crossmodal-3600/images.tgz",
)


def crossmodal3600() -> EvaluationSet:
    """Return the task over `captions.jsonl`, as captions.zip contains it, and the pictures in `images/`."""
    return EvaluationSet(CROSSMODAL3600_CARD, ("images",))
