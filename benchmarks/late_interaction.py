"""The effect of the choices of `--scorer maxsim` on English R@1 on the val split, and of half precision on ranks.

python -m benchmarks.late_interaction ENCODER [DATA]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from harness.core.builtins import load_encoder
from harness.core.data import Floats, Ints, Ranks, Retrieval, TokenStates
from harness.core.errors import HarnessError
from harness.core.protocols import PatchEncoder, TokenEncoder
from harness.evaluation.data_folders import data_folder
from harness.retrieval.late_interaction import maxsim_scores, rank_patches
from harness.retrieval.ranking import hit_rate, rank, rank_by_score
from harness.storage.embeddings import unit_half_states
from harness.storage.packed_states import PackedStates
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k


def full(states: TokenStates) -> PackedStates:
    """Return the encoder's states in float32."""
    return PackedStates(states.tokens, states.lengths)


def halved(states: TokenStates) -> PackedStates:
    """Return the states as they are stored."""
    return PackedStates(unit_half_states(states), states.lengths)


def inner(states: TokenStates) -> PackedStates:
    """Drop each text's first and last token."""
    starts, ends = np.cumsum(states.lengths) - states.lengths, np.cumsum(states.lengths)
    kept = np.setdiff1d(np.arange(len(states.tokens)), [*starts, *(ends - 1)])
    return PackedStates(states.tokens[kept], states.lengths - 2)


def with_whole(states: TokenStates) -> PackedStates:
    """Add each image's own embedding as another patch."""
    rows = np.insert(states.tokens, np.cumsum(states.lengths), states.pooled, axis=0)
    return PackedStates(rows, states.lengths + 1)


def by_sum(patches: PackedStates, tokens: PackedStates, owner: Ints) -> Ranks:
    """Return ranks by the sum over tokens, with the same scale for all captions."""

    def score(captions: Ints, images: Ints) -> Floats:
        texts = tokens.take(captions)
        scaled: Floats = maxsim_scores(texts, patches.take(images)) * (texts.lengths[:, None] / tokens.lengths.max()).astype(
            np.float32
        )
        return scaled

    return rank_by_score(score, owner, len(patches))


def show(what: str, ranks: Ranks) -> None:
    """Print one line."""
    print(f"{what:45} {hit_rate(ranks.t2i, 1):5.1f} {hit_rate(ranks.i2t, 1):5.1f}", flush=True)


def main(spec: str, data: str | None) -> None:
    """Print R@1, text to image and image to text, for each choice."""
    encoder, task = load_encoder(spec, "cpu"), Flickr30k()
    retrieval: Retrieval = task.load(data_folder(task, "flickr30k", data, Store.at(None)), "en", "val")
    if not (isinstance(encoder, TokenEncoder) and isinstance(encoder, PatchEncoder)):
        raise HarnessError(f"{spec} gives no token or patch states")
    tokens = encoder.encode_tokens(retrieval.captions, "en")
    images = range(len(retrieval.images.ids))
    parts = [encoder.encode_patches([retrieval.images.open(i) for i in images[start : start + 64]]) for start in images[::64]]
    patches = TokenStates(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "lengths", "pooled")))
    owner = retrieval.caption_images
    print(f"{len(retrieval.images.ids):,} images, {len(retrieval.captions):,} captions; R@1 text → image and image → text")
    show("plain", rank(patches.pooled, tokens.pooled, owner))
    start = time.perf_counter()
    exact = rank_patches(full(patches), full(tokens), owner)
    seconds = time.perf_counter() - start
    show("maxsim", exact)
    show("  sum instead of mean", by_sum(full(patches), full(tokens), owner))
    show("  without the first and last token", rank_patches(full(patches), inner(tokens), owner))
    show("  the picture's embedding as one more patch", rank_patches(with_whole(patches), full(tokens), owner))
    kept = rank_patches(halved(patches), halved(tokens), owner)
    show("  kept in half precision", kept)
    for name, before, after in (("text → image", exact.t2i, kept.t2i), ("image → text", exact.i2t, kept.i2t)):
        crossed = sum(int(((before <= k) != (after <= k)).sum()) for k in (1, 5, 10))
        moved = np.abs(before - after)
        count = np.count_nonzero(moved)
        print(f"half precision, {name}: {count:,} of {len(before):,} ranks move, by {moved.max()} at most; {crossed} hits change")
    print(f"maxsim took {seconds:.1f} s: {len(tokens.tokens):,} tokens by {len(patches.tokens):,} patches")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
