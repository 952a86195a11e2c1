"""The store of embeddings, addressed by what they were made of: role, tower, language and contents, never a mere name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.api import (
    Floats,
    HarnessError,
    ImageEncoder,
    Images,
    KnownFeatures,
    Retrieval,
    TextEncoder,
    digest_strings,
)
from harness.store import Store, new_file

Advance = Callable[[int], None]
IMAGES_A_CALL = 64
TEXTS_A_CALL = 1024


def embed_images(encoder: ImageEncoder, images: Images, store: Store, advance: Advance) -> Floats:
    """Embeddings (n, d) of all images, from the store where they lie. `advance(k)` is told of k more images encoded."""
    if isinstance(encoder, KnownFeatures):
        return checked(encoder.image_features(images.ids), len(images.ids))
    key = digest_strings(["images", encoder.fingerprint(), images.digest()])

    def compute() -> list[Floats]:
        parts = []
        for start in range(0, len(images.ids), IMAGES_A_CALL):
            batch = [images.open(i) for i in range(start, min(start + IMAGES_A_CALL, len(images.ids)))]
            parts.append(encoder.encode_images(batch))
            advance(len(batch))
        return parts

    return stored(store, key, len(images.ids), compute)


def embed_captions(tower: TextEncoder, retrieval: Retrieval, store: Store) -> Floats:
    """Embeddings (m, d) of a retrieval's captions, from the store where they lie."""
    if isinstance(tower, KnownFeatures):
        return checked(tower.caption_features(retrieval.caption_ids, retrieval.lang), len(retrieval.captions))
    return embed_texts(tower, retrieval.captions, retrieval.lang, store)


def embed_texts(tower: TextEncoder, texts: Sequence[str], lang: str, store: Store) -> Floats:
    """Embeddings (m, d) of all texts, from the store where they lie."""
    key = digest_strings(["texts", tower.fingerprint(), lang, *texts])

    def compute() -> list[Floats]:
        return [tower.encode_texts(texts[start : start + TEXTS_A_CALL], lang) for start in range(0, len(texts), TEXTS_A_CALL)]

    return stored(store, key, len(texts), compute)


def stored(store: Store, key: str, count: int, compute: Callable[[], list[Floats]]) -> Floats:
    """The matrix kept under `key`, computed and kept if it is not there.

    Raises HarnessError as `checked` does.
    """
    from safetensors.numpy import load_file, save_file

    path = store.embeddings(key)
    if path.is_file():
        kept: Floats = load_file(path)["embeddings"]
        return kept
    embeddings = checked(np.concatenate(compute()), count)
    with new_file(path) as temporary:
        save_file({"embeddings": embeddings}, temporary)
    return embeddings


def checked(given: Floats, count: int) -> Floats:
    """What an encoder gave, as float32. Raises HarnessError if it is not `count` finite rows of one width."""
    embeddings = np.ascontiguousarray(given, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise HarnessError(f"the encoder gave an array of shape {embeddings.shape} for {count} items; expected ({count}, d)")
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise HarnessError(f"the encoder gave NaN or infinity for {bad} of {count} items; its numbers would mean nothing")
    return embeddings
