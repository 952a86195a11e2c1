"""The store of embeddings, addressed by what they were made of: role, tower, language and contents, never a mere name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

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
from harness.config import first_line
from harness.store import DamagedError, Store, new_file, say_damaged

Advance = Callable[[int], None]
IMAGES_A_CALL = 64
TEXTS_A_CALL = 1024
DIGEST = "sha256"


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
    """The matrix kept under `key`, computed and kept if it is not there, or if what is there is damaged.

    Raises HarnessError as `checked` does.
    """
    from safetensors.numpy import save_file

    path = store.embeddings(key)
    try:
        return kept(path, count)
    except FileNotFoundError:
        pass
    except DamagedError as error:
        say_damaged(error)
    with store.claim(path):
        # Another run may have made it meanwhile.
        with suppress(FileNotFoundError, DamagedError):
            return kept(path, count)
        embeddings = checked(np.concatenate(compute()), count)
        with new_file(path) as temporary:
            save_file({"embeddings": embeddings}, temporary, {DIGEST: digest_array(embeddings)})
        return embeddings


def kept(path: Path, count: int) -> Floats:
    """The matrix in a file that `stored` wrote. Raises DamagedError if it is not whole, FileNotFoundError if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            embeddings: Floats = file.get_tensor("embeddings")
            digest = (file.metadata() or {}).get(DIGEST)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)})") from None
    if digest != digest_array(embeddings) or len(embeddings) != count:
        raise DamagedError(f"{path} is damaged (it is not what was written)")
    return embeddings


def digest_array(array: Floats) -> str:
    """SHA-256 of a matrix: its form and its numbers."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def checked(given: Floats, count: int) -> Floats:
    """What an encoder gave, as float32. Raises HarnessError if it is not `count` finite rows of one width."""
    embeddings = np.ascontiguousarray(given, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise HarnessError(f"the encoder gave an array of shape {embeddings.shape} for {count} items; expected ({count}, d)")
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise HarnessError(f"the encoder gave NaN or infinity for {bad} of {count} items; its numbers would mean nothing")
    return embeddings
