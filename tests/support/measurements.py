"""Small handmade measurements and the fields of their records."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.core.data import Ranks
from harness.records.schema import Record
from harness.retrieval.ranking import chance_rates, retrieval_scores
from harness.statistics.measurement import Measurement

PROVENANCE: dict[str, Any] = dict.fromkeys(("version", "python", "platform", "device", "created", "command"), "")
PROVENANCE |= {"commit": None, "dirty": None, "packages": {}}


BITEXT = {"lang": "de", "source": "", "kind": "", "offered": 10, "dropped": 1, "used": 9, "digest": ""}


TOWER: dict[str, Any] = dict.fromkeys(("digest", "lang", "teacher", "teacher_fingerprint"), "")
TOWER |= {"config": {}, "steps": 1, "losses": [1.0], "seconds": 1.0, "bitext": BITEXT, "provenance": PROVENANCE}


TEXTS = ("cell", "task", "task_version", "lang", "split", "source", "kind", "images_digest", "texts_digest", "encoder")


def measurement(label: str, t2i: list[int], per_image: int = 1, distilled: bool = False) -> Measurement:
    """Return the measurement of a tower with the given ranks of captions. The rank of an image is the best of its captions."""
    owner = np.arange(len(t2i)) // per_image
    images = len(t2i) // per_image
    ranks = Ranks(np.array(t2i), np.array(t2i).reshape(images, per_image).min(1))
    fields: dict[str, Any] = dict.fromkeys((*TEXTS, "encoder_fingerprint"), "") | {"provenance": PROVENANCE}
    fields |= {"text_tower": label if distilled else "english", "tower": TOWER if distilled else None, "sample": True}
    fields |= {"images": images, "captions": len(t2i), "scores": retrieval_scores(ranks), "chance": chance_rates(owner, images)}
    return Measurement(label, Record.model_validate(fields), ranks, owner)


def table() -> list[Measurement]:
    return [
        measurement("floor", [50] * 8),
        measurement("kd-mse", [1, 1, 2, 3, 4, 20, 20, 20], distilled=True),
        measurement("ot-token", [1, 1, 1, 1, 4, 20, 20, 20], distilled=True),
        measurement("same captions", [1] * 8),
        measurement("all captions", [1] * 8 + [30] * 8, per_image=2),
    ]
