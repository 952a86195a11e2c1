"""A teacher's states of sentences: computed once, stored on disk, and read a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.core.data import Floats
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.protocols import TextEncoder, TokenEncoder
from harness.distill.model.tower import Encoded
from harness.storage.seals import get_or_create_folder
from harness.storage.store import Store

SENTENCES_A_CALL = 1024
STATE_FILES = ("tokens", "lengths", "pooled")


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's states of n sentences, memory-mapped or on a GPU.

    tokens: (rows, d), packed, in float16, or in float32 where float16 cannot hold them (`as_half_precision`). Sentence i has
    `lengths[i]` rows from `starts[i]` on. pooled: (n, d) float32.
    """

    tokens: Tensor
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    pooled: Tensor

    def near(self, device: torch.device) -> TeacherStates:
        """Return the states on a GPU if they take at most a quarter of its free memory, else unchanged."""
        if device.type != "cuda" or 4 * self.tokens.nbytes > torch.cuda.mem_get_info(device)[0]:
            return self
        return replace(self, tokens=self.tokens.to(device), pooled=self.pooled.to(device))

    def batch(self, rows: Sequence[int], device: torch.device) -> Encoded:
        """Return the states of some sentences, padded to the longest."""
        starts, lengths = (torch.from_numpy(each[rows]).to(self.tokens.device)[:, None] for each in (self.starts, self.lengths))
        places = torch.arange(int(self.lengths[rows].max()), device=self.tokens.device)
        mask = places < lengths
        # Padding reads an arbitrary token and is then set to zero.
        states = self.tokens[torch.where(mask, starts + places, 0)].to(device).float()
        mask = mask.to(device)
        return Encoded(states.masked_fill_(~mask[:, :, None], 0), mask, self.pooled[list(rows)].to(device))


def teacher_states(teacher: TextEncoder, texts: Sequence[str], store: Store, advance: Callable[[int], None]) -> TeacherStates:
    """Return the teacher's states of English sentences, stored or new. `advance(k)` is called when k more sentences are done.

    Raises HarnessError if the teacher gives no token states, or states that are not finite.
    """
    # Languages that share a tower share most of their English sentences.
    unique = list(dict.fromkeys(texts))
    place = store.teacher(digest_strings(["teacher", teacher.fingerprint(), *unique]))
    folder = get_or_create_folder(store, place, lambda temporary: compute_states(teacher, unique, temporary, advance))
    places = {text: place for place, text in enumerate(unique)}
    rows = np.array([places[text] for text in texts])
    # Copied where it is written to, which it is not: torch warns of memory that it could not write to.
    tokens, lengths, pooled = (np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in STATE_FILES)
    starts = np.cumsum(lengths) - lengths
    return TeacherStates(torch.from_numpy(tokens), starts[rows], lengths[rows], torch.from_numpy(pooled[rows]))


def compute_states(teacher: TextEncoder, texts: Sequence[str], folder: Path, advance: Callable[[int], None]) -> None:
    """Encode all texts and write `tokens.npy`, `lengths.npy` and `pooled.npy`."""
    if not isinstance(teacher, TokenEncoder):
        raise HarnessError("this text tower gives no token states (encode_tokens), so it cannot be a teacher")
    parts = []
    for start in range(0, len(texts), SENTENCES_A_CALL):
        part = teacher.encode_tokens(texts[start : start + SENTENCES_A_CALL], "en")
        if not (np.isfinite(part.tokens).all() and np.isfinite(part.pooled).all()):
            raise HarnessError("the teacher gave NaN or infinity for an English sentence; nothing can be distilled from it")
        parts.append((as_half_precision(part.tokens), part.lengths, part.pooled))
        advance(len(part.lengths))
    for name, arrays in zip(STATE_FILES, zip(*parts, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(arrays))


def as_half_precision(tokens: Floats) -> npt.NDArray[np.floating[Any]]:
    """Convert token states (rows, d) to float16, half the size. States that would overflow or lose precision stay unchanged.

    Token transport compares directions, so the error of an entry matters relative to the largest entry of its state. Below its
    normal range float16 has an error of 2**-25, which is 2**-15 of a largest entry of 2**-10.
    """
    largest = np.abs(tokens).max(axis=1)
    fits = (largest <= np.finfo(np.float16).max) & ((largest >= 2.0**-10) | (largest == 0))
    return tokens.astype(np.float16) if fits.all() else tokens
