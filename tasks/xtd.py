"""The task xtd: COCO images, captions translated in XTD10 and XTD200."""

from __future__ import annotations

from harness.core.data import TaskCard
from harness.tasks.evaluation_sets import EvaluationSet

XTD_CARD = TaskCard(
    name="xtd",
    version="1",
    title="XTD10 and XTD200: 1,000 images of COCO, one caption each",
    splits=("test",),
    licence="captions under Adobe's licence; pictures under Flickr's terms",
    source="https://cocodataset.org/#download, train2014 and val2014",
)


def xtd() -> EvaluationSet:
    """Return the task over the folder layout of XTD10 with the pictures of COCO in it, and the files of XTD200 in `xtd200/`."""
    return EvaluationSet(XTD_CARD, ("train2014", "val2014", "images"), "XTD10/test_image_names.txt")
