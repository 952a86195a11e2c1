"""Pictures a second through an open_clip image tower: open_clip as it stands against the way of `encoders/open_clip.py`.

python benchmarks/images.py local-dir:FOLDER PICTURES_FOLDER
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from harness.encoders.open_clip import IMAGES_A_BATCH_ON_CPU, load
from harness.registry import load_encoder

PICTURES, ROUNDS = 64, 5


def speed(work: Callable[[], object]) -> float:
    """Pictures a second."""
    start = time.perf_counter()
    work()
    return PICTURES / (time.perf_counter() - start)


def main(spec: str, folder: Path) -> None:
    """Measure both ways in turn, in one process; medians of the rounds, and the ratio round by round."""
    encoder = load_encoder(spec, "cpu")
    plain = load(encoder.name, encoder.files, "cpu")
    plain.model.visual.to(memory_format=torch.contiguous_format)
    pictures = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:PICTURES]]

    def as_it_stands() -> None:
        with torch.inference_mode():
            plain.model.encode_image(torch.stack([plain.preprocess(picture) for picture in pictures]))

    as_it_stands(), encoder.encode_images(pictures)
    rounds = [(speed(as_it_stands), speed(lambda: encoder.encode_images(pictures))) for _ in range(ROUNDS)]
    before, after = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratios = sorted(ours / theirs for theirs, ours in rounds)
    print(f"{torch.get_num_threads()} threads, {PICTURES} pictures, {ROUNDS} rounds")
    print(f"open_clip, one batch of {PICTURES}: {before:.1f} a second")
    print(f"channels last, batches of {IMAGES_A_BATCH_ON_CPU}: {after:.1f} a second")
    print(f"ratio: {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
