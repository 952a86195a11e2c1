"""The store of embeddings, addressed by what they were made of: role, tower, language and contents, never a mere name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.data import Floats, Images, Retrieval, TokenStates
from harness.core.digests import digest_strings
from harness.core.error_messages import first_line
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, ImageEncoder, KnownFeatures, PatchEncoder, TextEncoder, TokenEncoder
from harness.runtime.prefetch import ahead
from harness.runtime.vectors import unit_rows
from harness.storage.packed_states import PackedStates
from harness.storage.seals import DIGEST_FIELD, KEY_FIELD, check_key, entry_key, get_or_create_folder
from harness.storage.store import BusyError, DamagedError, Store, explain_read_errors, new_file

ReportProgress = Callable[[int], None]
ComputeRows = Callable[[int, int], Iterator[Floats]]
IMAGES_PER_CALL = 64
TEXTS_PER_CALL = 1024
# Multiples of the above, so that a part is computed as it would be in the whole.
IMAGES_PER_PART, TEXTS_PER_PART = 1024, 16_384
STATES_FILE, LENGTHS_FILE = "states.f16", "lengths.npy"


def ignore_progress(count: int) -> None:
    """An `ReportProgress` that tells nobody."""


def embed_images(encoder: ImageEncoder, images: Images, store: Store, advance: ReportProgress) -> Floats:
    """Embeddings (n, d) of all images, from the store where they lie. `advance(k)` is told of k more images encoded."""
    if isinstance(encoder, KnownFeatures):
        return check_embeddings(encoder.image_features(images.ids), len(images.ids))
    key = digest_strings(["images", encoder.fingerprint(), images.digest()])

    def compute(start: int, stop: int) -> Iterator[Floats]:
        opened = ahead(images.open, range(start, stop), IMAGES_PER_CALL)
        for first in range(start, stop, IMAGES_PER_CALL):
            batch = list(islice(opened, min(IMAGES_PER_CALL, stop - first)))
            yield encoder.encode_images(batch)
            advance(len(batch))

    return get_or_compute(store, key, len(images.ids), compute, IMAGES_PER_PART)


def embed_captions(tower: TextEncoder, retrieval: Retrieval, store: Store) -> Floats:
    """Embeddings (m, d) of a retrieval's captions, from the store where they lie."""
    if isinstance(tower, KnownFeatures):
        return check_embeddings(tower.caption_features(retrieval.caption_ids, retrieval.lang), len(retrieval.captions))
    return embed_texts(tower, retrieval.captions, retrieval.lang, store)


def embed_documents(encoder: Encoder, ids: Sequence[str], texts: Sequence[str], store: Store, advance: ReportProgress) -> Floats:
    """Embeddings (n, d) of some English documents, from the store where they lie. `advance(k)`: k more of them encoded."""
    if isinstance(encoder, KnownFeatures):
        return check_embeddings(encoder.caption_features(ids, ENGLISH), len(ids))
    return embed_texts(encoder, texts, ENGLISH, store, advance)


def embed_texts(
    tower: TextEncoder, texts: Sequence[str], lang: str, store: Store, advance: ReportProgress = ignore_progress
) -> Floats:
    """Embeddings (m, d) of all texts, from the store where they lie. `advance(k)`: k more of them encoded."""
    key = digest_strings(["texts", tower.fingerprint(), lang, *texts])

    def compute(start: int, stop: int) -> Iterator[Floats]:
        for first in range(start, stop, TEXTS_PER_CALL):
            part = tower.encode_texts(texts[first : min(first + TEXTS_PER_CALL, stop)], lang)
            yield part
            advance(len(part))

    return get_or_compute(store, key, len(texts), compute, TEXTS_PER_PART)


def embed_tokens(
    tower: TextEncoder, texts: Sequence[str], lang: str, store: Store, advance: ReportProgress = ignore_progress
) -> PackedStates:
    """Token states of all texts, from the store where they lie; `advance` as for `embed_texts`.

    Raises HarnessError if the tower offers none.
    """
    if not isinstance(tower, TokenEncoder):
        raise HarnessError(
            "this text tower gives no token states (encode_tokens), so --scorer maxsim cannot read with it: "
            "docs/late-interaction.md"
        )
    key = digest_strings(["token states 1", tower.fingerprint(), lang, *texts])

    def compute() -> Iterator[TokenStates]:
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = tower.encode_tokens(texts[start : start + TEXTS_PER_CALL], lang)
            yield part
            advance(len(part.lengths))

    return get_or_compute_states(store, key, len(texts), compute)


def embed_patches(encoder: ImageEncoder, images: Images, store: Store, advance: ReportProgress) -> PackedStates:
    """Patch states of all images, from the store where they lie; `advance` as for `embed_images`.

    Raises HarnessError if the encoder offers none.
    """
    if not isinstance(encoder, PatchEncoder):
        raise HarnessError(
            "this image encoder gives no patch states (encode_patches), so --scorer maxsim cannot look at its pictures: "
            "docs/late-interaction.md"
        )
    key = digest_strings(["patch states 1", encoder.fingerprint(), images.digest()])

    def compute() -> Iterator[TokenStates]:
        for start in range(0, len(images.ids), IMAGES_PER_CALL):
            batch = [images.open(i) for i in range(start, min(start + IMAGES_PER_CALL, len(images.ids)))]
            yield encoder.encode_patches(batch)
            advance(len(batch))

    return get_or_compute_states(store, key, len(images.ids), compute)


def get_or_compute_states(store: Store, key: str, count: int, compute: Callable[[], Iterator[TokenStates]]) -> PackedStates:
    """The states kept under `key`, memory-mapped; computed and kept, part by part, if they are not there or damaged.

    They are kept as directions in half precision (docs/late-interaction.md says what that does to ranks): their lengths play no
    part, and may exceed half precision. Raises HarnessError as `unit_half_states`, and for a wrong number of items.
    """
    folder = get_or_create_folder(store, store.states(key), lambda temporary: write_states(temporary, count, compute()))
    sizes = np.load(folder / LENGTHS_FILE, allow_pickle=False)
    return PackedStates(np.memmap(folder / STATES_FILE, np.float16, "r").reshape(int(sizes.sum()), -1), sizes)


def write_states(folder: Path, count: int, parts: Iterator[TokenStates]) -> None:
    """Write the states of `count` items as they come."""
    lengths: list[int] = []
    with (folder / STATES_FILE).open("wb") as file:
        for part in parts:
            file.write(unit_half_states(part).tobytes())
            lengths += np.asarray(part.lengths).tolist()
    if len(lengths) != count:
        raise HarnessError(f"the encoder gave states of {len(lengths):,} items for {count:,}")
    np.save(folder / LENGTHS_FILE, np.array(lengths, np.int64))


def unit_half_states(states: TokenStates) -> npt.NDArray[np.float16]:
    """States at unit length, rounded to half precision. Raises HarnessError if they are not finite rows, one or more an item."""
    lengths = np.asarray(states.lengths)
    if not len(lengths) or lengths.min() < 1:
        raise HarnessError("the encoder gave an item without any state; expected one or more each")
    return unit_rows(check_embeddings(states.tokens, int(lengths.sum()))).astype(np.float16)


def get_or_compute(store: Store, key: str, count: int, compute: ComputeRows, size: int) -> Floats:
    """The matrix kept under `key`, computed and kept if it is not there, or if what is there is damaged.

    compute: gives the rows from one number to before another, in pieces. Where there are more than `size` rows, they are computed
    and kept in parts of so many, which several runs at once divide between them, and of which a run that was killed loses one.
    Raises HarnessError as `check_embeddings` does.
    """
    path = store.embeddings(key)

    def make(path: Path) -> Floats:
        pieces: list[Floats] = []
        for start in range(0, count, size):
            part = load_undamaged_matrix(store.part(key, start), min(size, count - start))
            pieces += [part] if part is not None else compute(start, min(start + size, count))
        matrix = check_embeddings(np.concatenate(pieces), count)
        write_matrix(path, matrix)
        return matrix

    if count > size:
        if (found := load_undamaged_matrix(path, count)) is not None:
            return found
        make_parts(store, key, count, compute, size)
    found = store.get_or_create(path, lambda path: load_matrix(path, count), make)
    if count > size:
        shutil.rmtree(store.part(key, 0).parent, ignore_errors=True)
    return found


def make_parts(store: Store, key: str, count: int, compute: ComputeRows, size: int) -> None:
    """Make every part that is missing: first those that no other run is at, then, when those are done, what is left."""
    left = list(range(0, count, size))
    for wait in (False, True):
        busy = []
        for start in left:
            try:
                make_part(store, key, start, min(start + size, count), compute, wait)
            except BusyError:
                busy.append(start)
        left = busy


def make_part(store: Store, key: str, start: int, stop: int, compute: ComputeRows, wait: bool) -> None:
    """Make one part unless it, or the matrix itself, is there. Raises BusyError if another run is at it and `wait` is False."""

    def load(path: Path) -> Path | None:
        return path if store.embeddings(key).is_file() or load_matrix(path, stop - start) is not None else None

    def make(path: Path) -> Path:
        write_matrix(path, check_embeddings(np.concatenate(list(compute(start, stop))), stop - start))
        return path

    store.get_or_create(store.part(key, start), load, make, wait)


def write_matrix(path: Path, embeddings: Floats) -> None:
    """Write a matrix with its key and digest."""
    from safetensors.numpy import save_file

    with new_file(path) as temporary:
        save_file({"embeddings": embeddings}, temporary, {KEY_FIELD: entry_key(path), DIGEST_FIELD: digest_array(embeddings)})


def load_undamaged_matrix(path: Path, count: int) -> Floats | None:
    """The matrix in a file; None if there is none, or if it is damaged or of another key."""
    try:
        return load_matrix(path, count)
    except DamagedError:
        return None


def load_matrix(path: Path, count: int) -> Floats | None:
    """The matrix in a file that `write_matrix` wrote; None if there is none.

    Raises HarnessError if it may not be read, DamagedError if it is not whole or of another key.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with explain_read_errors(path):
            path.open("rb").close()
        with safe_open(path, framework="numpy") as file:
            embeddings: Floats = file.get_tensor("embeddings")
            metadata = file.metadata() or {}
    except FileNotFoundError:
        return None
    except HarnessError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)})") from None
    if metadata.get(DIGEST_FIELD) != digest_array(embeddings):
        raise DamagedError(f"{path} is damaged (it is not what was written)")
    check_key(path, metadata.get(KEY_FIELD), entry_key(path))
    if len(embeddings) != count:
        raise DamagedError(f"{path} is damaged (it has {len(embeddings):,} rows, expected {count:,})")
    return embeddings


def digest_array(array: Floats) -> str:
    """SHA-256 of a matrix: its form and its numbers."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_embeddings(given: Floats, count: int) -> Floats:
    """What an encoder gave, as float32. Raises HarnessError if it is not `count` finite rows of one width."""
    embeddings = np.ascontiguousarray(given, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise HarnessError(f"the encoder gave an array of shape {embeddings.shape} for {count} items; expected ({count}, d)")
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise HarnessError(f"the encoder gave NaN or infinity for {bad} of {count} items; its numbers would mean nothing")
    return embeddings
