"""The store of embeddings, addressed by what they were made of: role, tower, language and contents, never a mere name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from harness.ahead import ahead
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
from harness.store import BusyError, DamagedError, Store, new_file, say_damaged

Advance = Callable[[int], None]
Compute = Callable[[int, int], Iterator[Floats]]
IMAGES_A_CALL = 64
TEXTS_A_CALL = 1024
# Multiples of the above, so that a part is computed as it would be in the whole.
IMAGES_A_PART, TEXTS_A_PART = 1024, 16_384
DIGEST = "sha256"


def embed_images(encoder: ImageEncoder, images: Images, store: Store, advance: Advance) -> Floats:
    """Embeddings (n, d) of all images, from the store where they lie. `advance(k)` is told of k more images encoded."""
    if isinstance(encoder, KnownFeatures):
        return checked(encoder.image_features(images.ids), len(images.ids))
    key = digest_strings(["images", encoder.fingerprint(), images.digest()])

    def compute(start: int, stop: int) -> Iterator[Floats]:
        opened = ahead(images.open, range(start, stop), IMAGES_A_CALL)
        for first in range(start, stop, IMAGES_A_CALL):
            batch = list(islice(opened, min(IMAGES_A_CALL, stop - first)))
            yield encoder.encode_images(batch)
            advance(len(batch))

    return stored(store, key, len(images.ids), compute, IMAGES_A_PART)


def embed_captions(tower: TextEncoder, retrieval: Retrieval, store: Store) -> Floats:
    """Embeddings (m, d) of a retrieval's captions, from the store where they lie."""
    if isinstance(tower, KnownFeatures):
        return checked(tower.caption_features(retrieval.caption_ids, retrieval.lang), len(retrieval.captions))
    return embed_texts(tower, retrieval.captions, retrieval.lang, store)


def embed_texts(tower: TextEncoder, texts: Sequence[str], lang: str, store: Store) -> Floats:
    """Embeddings (m, d) of all texts, from the store where they lie."""
    key = digest_strings(["texts", tower.fingerprint(), lang, *texts])

    def compute(start: int, stop: int) -> Iterator[Floats]:
        for first in range(start, stop, TEXTS_A_CALL):
            yield tower.encode_texts(texts[first : min(first + TEXTS_A_CALL, stop)], lang)

    return stored(store, key, len(texts), compute, TEXTS_A_PART)


def stored(store: Store, key: str, count: int, compute: Compute, size: int) -> Floats:
    """The matrix kept under `key`, computed and kept if it is not there, or if what is there is damaged.

    compute: gives the rows from one number to before another, in pieces. Where there are more than `size` rows, they are computed
    and kept in parts of so many, which several runs at once divide between them, and of which a run that was killed loses one.
    Raises HarnessError as `checked` does.
    """
    path = store.embeddings(key)
    if (found := read_or_say(path, count)) is not None:
        return found
    if count > size:
        make_parts(store, key, count, compute, size)
    with store.claim(path):
        if (found := read_if_whole(path, count)) is None:
            pieces: list[Floats] = []
            for start in range(0, count, size):
                part = read_if_whole(store.part(key, start), min(size, count - start))
                pieces += [part] if part is not None else compute(start, min(start + size, count))
            found = checked(np.concatenate(pieces), count)
            keep(path, found)
    shutil.rmtree(store.part(key, 0).parent, ignore_errors=True)
    return found


def make_parts(store: Store, key: str, count: int, compute: Compute, size: int) -> None:
    """Make every part that is missing: first those that no other run is at, then, when those are done, what is left."""
    left = list(range(0, count, size))
    for wait in (False, True):
        busy = []
        for start in left:
            part, stop = store.part(key, start), min(start + size, count)
            try:
                with store.claim(part, wait):
                    whole = store.embeddings(key).is_file()
                    if not whole and read_or_say(part, stop - start) is None:
                        keep(part, checked(np.concatenate(list(compute(start, stop))), stop - start))
            except BusyError:
                busy.append(start)
        left = busy


def keep(path: Path, embeddings: Floats) -> None:
    """Write a matrix with its digest."""
    from safetensors.numpy import save_file

    with new_file(path) as temporary:
        save_file({"embeddings": embeddings}, temporary, {DIGEST: digest_array(embeddings)})


def read_or_say(path: Path, count: int) -> Floats | None:
    """The matrix in a file; None if there is none, or if it is damaged, which is said."""
    try:
        return kept(path, count)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        say_damaged(error)
        return None


def read_if_whole(path: Path, count: int) -> Floats | None:
    """The matrix in a file; None if there is none or if it is damaged."""
    try:
        return kept(path, count)
    except (FileNotFoundError, DamagedError):
        return None


def kept(path: Path, count: int) -> Floats:
    """The matrix in a file that `keep` wrote. Raises DamagedError if it is not whole, FileNotFoundError if there is none."""
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
