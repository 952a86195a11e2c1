"""The store of embeddings, addressed by what they were made of: role, tower, language and contents, never a mere name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.api import (
    Floats,
    HarnessError,
    ImageEncoder,
    Images,
    KnownFeatures,
    PatchEncoder,
    Retrieval,
    TextEncoder,
    TokenEncoder,
    TokenStates,
    digest_strings,
)
from harness.late_interaction import Bags
from harness.store import Store, new_file, new_folder

Advance = Callable[[int], None]
IMAGES_A_CALL = 64
TEXTS_A_CALL = 1024
STATES, LENGTHS = "states.f16", "lengths.npy"


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


def embed_tokens(tower: TextEncoder, texts: Sequence[str], lang: str, store: Store) -> Bags:
    """Token states of all texts, from the store where they lie. Raises HarnessError if the tower offers none."""
    if not isinstance(tower, TokenEncoder):
        raise HarnessError(
            "this text tower gives no token states (encode_tokens), so --scorer maxsim cannot read with it: "
            "docs/late-interaction.md"
        )
    key = digest_strings(["token states 1", tower.fingerprint(), lang, *texts])

    def compute() -> Iterator[TokenStates]:
        for start in range(0, len(texts), TEXTS_A_CALL):
            yield tower.encode_tokens(texts[start : start + TEXTS_A_CALL], lang)

    return stored_states(store, key, len(texts), compute)


def embed_patches(encoder: ImageEncoder, images: Images, store: Store, advance: Advance) -> Bags:
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
        for start in range(0, len(images.ids), IMAGES_A_CALL):
            batch = [images.open(i) for i in range(start, min(start + IMAGES_A_CALL, len(images.ids)))]
            yield encoder.encode_patches(batch)
            advance(len(batch))

    return stored_states(store, key, len(images.ids), compute)


def stored_states(store: Store, key: str, count: int, compute: Callable[[], Iterator[TokenStates]]) -> Bags:
    """The states kept under `key`, memory-mapped; computed and kept, part by part, if they are not there.

    They are kept as directions in half precision (docs/late-interaction.md says what that does to ranks): their lengths play no
    part, and may be more than half precision can hold. Raises HarnessError as `directions_of`, and for another number of items.
    """
    folder = store.states(key)
    if not folder.is_dir():
        lengths: list[int] = []
        with new_folder(folder) as temporary:
            with (temporary / STATES).open("wb") as file:
                for part in compute():
                    file.write(directions_of(part).tobytes())
                    lengths += np.asarray(part.lengths).tolist()
            if len(lengths) != count:
                raise HarnessError(f"the encoder gave states of {len(lengths):,} items for {count:,}")
            np.save(temporary / LENGTHS, np.array(lengths, np.int64))
    sizes = np.load(folder / LENGTHS)
    return Bags(np.memmap(folder / STATES, np.float16, "r").reshape(int(sizes.sum()), -1), sizes)


def directions_of(states: TokenStates) -> npt.NDArray[np.float16]:
    """States at unit length, rounded to half precision. Raises HarnessError if they are not finite rows, one or more an item."""
    lengths = np.asarray(states.lengths)
    if not len(lengths) or lengths.min() < 1:
        raise HarnessError("the encoder gave an item without any state; expected one or more each")
    wide = checked(states.tokens, int(lengths.sum())).astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    rounded: npt.NDArray[np.float16] = (wide / np.where(norms > 0, norms, 1)).astype(np.float16)
    return rounded


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
