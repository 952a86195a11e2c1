"""Embeddings in the store. Their key is a digest of tower, language and contents, and never a name alone."""

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
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, ImageEncoder, KnownFeatures, PatchEncoder, TextEncoder, TokenEncoder
from harness.runtime.prefetch import prefetch
from harness.runtime.vectors import unit_rows
from harness.storage.packed_states import PackedStates
from harness.storage.seals import DIGEST_FIELD, KEY_FIELD, check_key, entry_key, get_or_create_folder
from harness.storage.store import BusyError, DamagedError, Store, explain_read_errors, new_file

ReportProgress = Callable[[int], None]
ComputeRows = Callable[[int, int], Iterator[Floats]]
IMAGES_PER_CALL = 64
TEXTS_PER_CALL = 1024
# Multiples of the above, so that the batches of a part are those of the complete matrix.
IMAGES_PER_PART, TEXTS_PER_PART = 1024, 16_384
STATES_FILE, LENGTHS_FILE = "states.f16", "lengths.npy"


def ignore_progress(count: int) -> None:
    """Report no progress."""


def embed_images(encoder: ImageEncoder, images: Images, store: Store, advance: ReportProgress) -> Floats:
    """Return the embeddings (n, d) of all images, read from the store or computed. `advance(k)` reports k more encoded images."""
    if isinstance(encoder, KnownFeatures):
        return check_embeddings(encoder.image_features(images.ids), len(images.ids))
    key = digest_strings(["images", encoder.fingerprint(), images.digest()])

    def compute(start: int, stop: int) -> Iterator[Floats]:
        opened = prefetch(images.open, range(start, stop), IMAGES_PER_CALL)
        for first in range(start, stop, IMAGES_PER_CALL):
            batch = list(islice(opened, min(IMAGES_PER_CALL, stop - first)))
            yield encoder.encode_images(batch)
            advance(len(batch))

    return get_or_compute(store, key, len(images.ids), compute, IMAGES_PER_PART)


def embed_captions(tower: TextEncoder, retrieval: Retrieval, store: Store) -> Floats:
    """Return the embeddings (m, d) of a retrieval's captions, read from the store or computed."""
    if isinstance(tower, KnownFeatures):
        return check_embeddings(tower.caption_features(retrieval.caption_ids, retrieval.lang), len(retrieval.captions))
    return embed_texts(tower, retrieval.captions, retrieval.lang, store)


def embed_documents(encoder: Encoder, ids: Sequence[str], texts: Sequence[str], store: Store, advance: ReportProgress) -> Floats:
    """Return the embeddings (n, d) of English documents, read from the store or computed. `advance` as for `embed_images`."""
    if isinstance(encoder, KnownFeatures):
        return check_embeddings(encoder.caption_features(ids, ENGLISH), len(ids))
    return embed_texts(encoder, texts, ENGLISH, store, advance)


def embed_texts(
    tower: TextEncoder, texts: Sequence[str], lang: str, store: Store, advance: ReportProgress = ignore_progress
) -> Floats:
    """Return the embeddings (m, d) of all texts, read from the store or computed. `advance` as for `embed_images`."""
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
    """Return the token states of all texts, read from the store or computed. `advance` as for `embed_images`.

    Raises HarnessError if the tower has no token states.
    """
    if not isinstance(tower, TokenEncoder):
        raise HarnessError(
            "this text tower has no token states (encode_tokens), which --scorer maxsim needs: see docs/late-interaction.md"
        )
    key = digest_strings(["token states 1", tower.fingerprint(), lang, *texts])

    def compute() -> Iterator[TokenStates]:
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = tower.encode_tokens(texts[start : start + TEXTS_PER_CALL], lang)
            yield part
            advance(len(part.lengths))

    return get_or_compute_states(store, key, len(texts), compute)


def embed_patches(encoder: ImageEncoder, images: Images, store: Store, advance: ReportProgress) -> PackedStates:
    """Return the patch states of all images, read from the store or computed. `advance` as for `embed_images`.

    Raises HarnessError if the encoder has no patch states.
    """
    if not isinstance(encoder, PatchEncoder):
        raise HarnessError(
            "this image encoder has no patch states (encode_patches), which --scorer maxsim needs: see docs/late-interaction.md"
        )
    key = digest_strings(["patch states 1", encoder.fingerprint(), images.digest()])

    def compute() -> Iterator[TokenStates]:
        for start in range(0, len(images.ids), IMAGES_PER_CALL):
            batch = [images.open(i) for i in range(start, min(start + IMAGES_PER_CALL, len(images.ids)))]
            yield encoder.encode_patches(batch)
            advance(len(batch))

    return get_or_compute_states(store, key, len(images.ids), compute)


def get_or_compute_states(store: Store, key: str, count: int, compute: Callable[[], Iterator[TokenStates]]) -> PackedStates:
    """Return the memory-mapped states of a key, which are computed if they are absent or damaged.

    States are stored at unit length in half precision: late interaction ignores their lengths, which may exceed half precision.
    docs/late-interaction.md describes the effect on ranks. Raises HarnessError as `unit_half_states`, and for a wrong number of
    items.
    """
    folder = get_or_create_folder(store, store.states(key), lambda temporary: write_states(temporary, count, compute()))
    sizes = np.load(folder / LENGTHS_FILE, allow_pickle=False)
    return PackedStates(np.memmap(folder / STATES_FILE, np.float16, "r").reshape(int(sizes.sum()), -1), sizes)


def write_states(folder: Path, count: int, parts: Iterator[TokenStates]) -> None:
    """Write the states of `count` items as they are computed."""
    lengths: list[int] = []
    with (folder / STATES_FILE).open("wb") as file:
        for part in parts:
            file.write(unit_half_states(part).tobytes())
            lengths += np.asarray(part.lengths).tolist()
    if len(lengths) != count:
        raise HarnessError(f"the encoder returned states of {len(lengths):,} items for {count:,}")
    np.save(folder / LENGTHS_FILE, np.array(lengths, np.int64))


def unit_half_states(states: TokenStates) -> npt.NDArray[np.float16]:
    """Return states at unit length in half precision. Raises HarnessError unless every item has one or more finite rows."""
    lengths = np.asarray(states.lengths)
    if not len(lengths) or lengths.min() < 1:
        raise HarnessError("the encoder returned an item without states; expected one or more for each item")
    return unit_rows(check_embeddings(states.tokens, int(lengths.sum()))).astype(np.float16)


def get_or_compute(store: Store, key: str, count: int, compute: ComputeRows, size: int) -> Floats:
    """Return the matrix of a key, which is computed and stored if it is absent or damaged.

    compute: yields the rows from a start to a stop, in pieces. More than `size` rows are computed and stored in parts of `size`
    rows. Several concurrent runs share the parts, and a killed run loses only one. Raises HarnessError as `check_embeddings`.
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
    """Compute every missing part: first the parts that no other run is computing, then the rest."""
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
    """Compute one part unless it or the matrix exists. Raises BusyError if another run is computing it and `wait` is False."""

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
    """Return the matrix in a file, None if there is none or if it is damaged or has another key."""
    try:
        return load_matrix(path, count)
    except DamagedError:
        return None


def load_matrix(path: Path, count: int) -> Floats | None:
    """Return the matrix that `write_matrix` wrote, None if there is no file.

    Raises HarnessError if the file may not be read, DamagedError if it is damaged or has another key.
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
        raise DamagedError(f"{path} is damaged ({short_message(error)})") from None
    if metadata.get(DIGEST_FIELD) != digest_array(embeddings):
        raise DamagedError(f"{path} is damaged (it is not what was written)")
    check_key(path, metadata.get(KEY_FIELD), entry_key(path))
    if len(embeddings) != count:
        raise DamagedError(f"{path} is damaged (it has {len(embeddings):,} rows, expected {count:,})")
    return embeddings


def digest_array(array: Floats) -> str:
    """Return the SHA-256 of a matrix: its type, its shape and its numbers."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_embeddings(given: Floats, count: int) -> Floats:
    """Return an encoder's output as float32. Raises HarnessError unless it has `count` finite rows of one width."""
    embeddings = np.ascontiguousarray(given, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise HarnessError(f"the encoder returned an array of shape {embeddings.shape} for {count} items; expected ({count}, d)")
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise HarnessError(f"the encoder returned NaN or infinity for {bad} of {count} items, so its scores would be meaningless")
    return embeddings
