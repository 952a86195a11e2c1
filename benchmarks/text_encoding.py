"""500 captions through the text tower of ViT-B-32 (random weights): open_clip, padded to 77 tokens, against `TextReader`."""

from __future__ import annotations

import numpy as np
import open_clip
import torch

from benchmarks.timing import compare
from harness.encoders.open_clip.text_towers import TextReader

CAPTIONS, BATCH = 500, 64
WORDS = ["a", "man", "dog", "woman", "red", "two", "street", "the", "on", "with", "runs", "ball", "young", "blue", "in", "house"]


def main() -> None:
    """Return captions of 3 to 38 words, 5 to 40 tokens."""
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(WORDS, length)) for length in rng.integers(3, 39, CAPTIONS)]
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    reader = TextReader(model, tokenizer, 512, "cpu")

    def padded() -> np.ndarray:
        with torch.inference_mode():
            parts = [model.encode_text(tokenizer(captions[start : start + BATCH])) for start in range(0, CAPTIONS, BATCH)]
        return torch.cat(parts).numpy()

    np.testing.assert_allclose(reader.embed(captions, "en"), padded(), atol=1e-5)

    def in_half() -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return reader.embed(captions, "en")

    directions = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (in_half(), padded())]
    print(f"\nbfloat16 against float32: the least cosine is {(directions[0] * directions[1]).sum(1).min():.5f}")
    ways = {f"open_clip, padded, {BATCH} at a time": padded, "`TextReader`, `bfloat16:`": in_half}
    compare(f"{CAPTIONS} captions through ViT-B-32's text tower", ways, 3)
    ways = {f"open_clip, padded, {BATCH} at a time": padded, "`TextReader`": lambda: reader.embed(captions, "en")}
    compare(f"{CAPTIONS} captions through ViT-B-32's text tower", ways, 3)


if __name__ == "__main__":
    main()
