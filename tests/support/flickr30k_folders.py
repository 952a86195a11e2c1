"""Small folders in the layouts of Flickr30k."""

from __future__ import annotations

from pathlib import Path

from harness.core.data import Retrieval


def captions_of(retrieval: Retrieval) -> list[tuple[str, str]]:
    ids = retrieval.images.ids
    return [(ids[i], text) for i, text in zip(retrieval.caption_images.tolist(), retrieval.captions, strict=True)]


PHOTOS = {"11": "train", "12": "train", "21": "val", "31": "test", "32": "test", "33": "test"}


MULTI30K = {"train": ["11", "12", "31"], "val": ["21"], "test_2016_flickr": ["33", "32"]}
"""As in a real subset, a test image (31) is in Multi30k's train split, and the order differs."""


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def english_line(name: str) -> str:
    return f"Caption 1 of {name}."
