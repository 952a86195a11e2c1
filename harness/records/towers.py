"""Read a tower's card, and the hashes of its training data, from its folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.records.files import CARD_FILE, SEEN_FILE
from harness.records.schema import TowerCard
from harness.storage.seals import check_key, check_seal, read_seal, read_sealed_bytes
from harness.storage.store import DamagedError, Store, explain_read_errors


def load_card(folder: Path) -> TowerCard:
    """Return a tower's card. Raises DamagedError if the file is not a card or differs from the seal."""
    path = folder / CARD_FILE
    found = read_seal(folder)
    try:
        card = TowerCard.model_validate_json(read_sealed_bytes(folder, CARD_FILE, found))
    except ValidationError as error:
        what = f"{path} is not a tower's card: {short_message(error)}"
        raise (HarnessError(what) if found else DamagedError(what, "delete its folder to distil it again")) from error
    if found and found.key is not None:
        check_key(folder, found.key, card.digest)
    return card


def check_stored_tower(folder: Path) -> None:
    """Raise DamagedError unless a folder of the store holds the undamaged tower of its name.

    A tower of an earlier version has its digest in its card alone.
    """
    check_seal(folder)
    check_key(folder, load_card(folder).digest, folder.name)


def load_seen(folder: Path) -> npt.NDArray[np.uint64]:
    """Return a tower's `harness.distill.data.leakage.seen_hashes`. Raises HarnessError if it has none."""
    path = folder / SEEN_FILE
    with explain_read_errors(path):
        if not path.is_file():
            raise HarnessError(f"{folder} has no {SEEN_FILE}, which lists what it was distilled from: distil it again")
    data = read_sealed_bytes(folder, SEEN_FILE, read_seal(folder))
    try:
        seen: npt.NDArray[np.uint64] = np.load(io.BytesIO(data), allow_pickle=False)
        if seen.dtype != np.uint64 or seen.ndim != 1:
            raise ValueError(f"it holds {seen.dtype} {seen.shape}")
    except Exception as error:  # numpy's reader of headers raises many kinds of errors, also those of Python's tokenizer
        raise HarnessError(f"{path} is not a list of hashes: {short_message(error)}; distil the tower again") from None
    return seen


def find_tower_folder(text: str, store: Store) -> Path:
    """Return the folder of a tower, given by its path or the beginning of its digest. Raises HarnessError if there is none."""
    if (Path(text) / CARD_FILE).is_file():
        return Path(text)
    found = [folder for folder in store.towers() if folder.name.startswith(text)]
    if len(found) == 1:
        check_key(found[0], load_card(found[0]).digest, found[0].name)
        return found[0]
    if found:
        raise HarnessError(f"{len(found)} towers begin with {text!r}: {', '.join(folder.name[:12] for folder in found)}")
    raise HarnessError(
        f"{text!r} is neither a folder with a {CARD_FILE} nor the beginning of a digest in {store.root}: see `towers list`"
    )
