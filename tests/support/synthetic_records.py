"""Synthetic records in the form that `run` writes, for any number of languages, towers and seeds over one gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.config import DistillConfig
from harness.core.data import Ints, Ranks, Retrieval
from harness.core.digests import digest_strings
from harness.records.files import save_record
from harness.records.schema import BitextCard, Provenance, Record, TowerCard
from harness.retrieval.ranking import chance_rates, retrieval_scores
from harness.storage.seals import seal_folder

PROVENANCE = Provenance(
    version="0.1.0",
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    python="3.11.7",
    platform="Linux x86_64",
    packages={"numpy": "2.4.6", "torch": "2.14.1"},
    device="cpu",
    created="2026-01-02T03:04:05+00:00",
    command="python -m harness run --lang de",
)


@dataclass(frozen=True)
class ImageIds:
    """Images that have only ids."""

    ids: tuple[str, ...]

    def digest(self) -> str:
        return digest_strings(["images", *self.ids])

    def open(self, index: int) -> Any:
        raise NotImplementedError


def gallery(images: int, prefix: str = "image") -> ImageIds:
    return ImageIds(tuple(f"{prefix}-{number}" for number in range(images)))


@dataclass(frozen=True)
class Arm:
    """A row of a board. skill: the expected R@1."""

    objective: str | None
    skill: float
    encoder: str = "made-up"
    pairs: int | None = 1000
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self, seed: int) -> DistillConfig | None:
        if self.objective is None:
            return None
        return DistillConfig.model_validate(
            {"objective": self.objective, "pairs": self.pairs, "seed": seed, **dict(self.changes)}
        )


def retrieval(
    lang: str, images: ImageIds, source: str = "made-up", kind: str = "human translation", per_image: int = 1
) -> Retrieval:
    owner = np.repeat(np.arange(len(images.ids)), per_image)
    ids = tuple(f"{images.ids[image]}#{number % per_image}" for number, image in enumerate(owner))
    captions = tuple(f"{lang} {name}" for name in ids)
    return Retrieval("flickr30k", lang, "test", source, kind, images, captions, ids, owner)


def synthetic_ranks(owner: Ints, images: int, skill: float, seed: Sequence[int]) -> Ranks:
    """Return ranks of which a share of about `skill` is 1. Images that are hard for one tower are hard for all."""
    draw, common = np.random.default_rng(list(seed)), np.random.default_rng(0)
    easy = common.random(images)
    found = easy[owner] + draw.normal(scale=0.25, size=len(owner)) < skill
    t2i = np.where(found, 1, draw.integers(2, images + 1, size=len(owner)))
    i2t = np.where(easy + draw.normal(scale=0.25, size=images) < skill, 1, draw.integers(2, images + 1, size=images))
    return Ranks(t2i.astype(np.int64), i2t.astype(np.int64))


def synthetic_record(of: Retrieval, arm: Arm, seed: int, ranks: Ranks, **changes: Any) -> Record:
    config, owner = arm.config(seed), of.caption_images
    bitext = BitextCard(
        lang=of.lang,
        source=of.source,
        kind=of.kind,
        offered=29_000,
        dropped=1000,
        used=arm.pairs or 28_000,
        digest=f"{of.lang}{arm.pairs}",
    )
    card = config and TowerCard(
        digest=digest_strings([config.model_dump_json(), of.lang]),
        lang=of.lang,
        config=config,
        teacher=arm.encoder,
        teacher_fingerprint=digest_strings([arm.encoder]),
        bitext=bitext,
        steps=600,
        losses=(1.0, 0.5),
        seconds=1.0,
        provenance=PROVENANCE,
    )
    seeds = f" --seed {seed}" if seed else ""
    fields: dict[str, Any] = {
        "cell": digest_strings(
            [of.lang, of.source, of.images.digest(), arm.encoder, config.model_dump_json() if config else "", str(seed)]
        ),
        "task": of.task,
        "task_version": "1",
        "lang": of.lang,
        "split": of.split,
        "source": of.source,
        "kind": of.kind,
        "sample": of.sample,
        "images": len(of.images.ids),
        "captions": len(of.captions),
        "images_digest": of.images.digest(),
        "texts_digest": of.texts_digest(),
        "encoder": arm.encoder,
        "encoder_fingerprint": digest_strings([arm.encoder]),
        "text_tower": arm.objective or "english",
        "tower": card,
        "scores": retrieval_scores(ranks),
        "chance": chance_rates(owner, len(of.images.ids)),
        "provenance": PROVENANCE.model_copy(
            update={"command": f"python -m harness run --lang {of.lang} --pairs {arm.pairs}{seeds}"}
        ),
    }
    return Record.model_validate(fields | changes)


def write_record(folder: Path, of: Retrieval, arm: Arm, seed: int = 0, ranks: Ranks | None = None, **changes: Any) -> Path:
    """Save a record in `folder/CELL`, by default with synthetic ranks of the arm's skill."""
    number = int(digest_strings([of.lang, str(arm)])[:8], 16)
    ranks = ranks or synthetic_ranks(of.caption_images, len(of.images.ids), arm.skill, [number, seed])
    record = synthetic_record(of, arm, seed, ranks, **changes)
    save_record(folder / record.cell, record, of, ranks)
    return folder / record.cell


def reseal(folder: Path) -> None:
    """Seal a changed record again, as a forger would."""
    seal_folder(folder, json.loads((folder / "record.json").read_bytes())["cell"])


def write_board(folder: Path, languages: Sequence[str], arms: Sequence[Arm], seeds: int, images: int = 1000) -> None:
    """Write records of every arm in every language and of English. Each language is harder than the previous one."""
    pictures = gallery(images)
    for place, lang in enumerate(languages):
        of = retrieval(lang, pictures)
        for arm in arms:
            easier = replace(arm, skill=arm.skill * (1 - 0.5 * place / len(languages)))
            for seed in range(seeds if arm.objective else 1):
                write_record(folder, of, easier, seed)
    english = retrieval("en", pictures, source="made-up (English side)", kind="original")
    for encoder in {arm.encoder for arm in arms}:
        write_record(folder, english, Arm(None, 0.6, encoder))


ARMS = (
    Arm(None, 0.02, pairs=None),
    Arm("kd-mse", 0.20),
    Arm("ot-token", 0.235),
    Arm("kd-mse", 0.33, pairs=5000),
    Arm("ot-token", 0.34, pairs=5000),
    Arm("kd-mse", 0.42, pairs=None),
    Arm("ot-token", 0.41, pairs=None),
    Arm("kd-contrastive", 0.30, pairs=5000),
    Arm("ot-batch", 0.36, pairs=5000),
    Arm("ot-token + 0.5*kd-mse", 0.37, pairs=5000, changes=(("eps", 0.05),)),
)
