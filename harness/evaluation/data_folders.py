"""Find the data folder of a task: the user's own, an opened pack, or the embedded sample."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.protocols import Task
from harness.storage.packs import is_pack, open_pack
from harness.storage.store import Store, existing_folder, new_folder


def data_folder(task: Task, name: str, given: str | None, store: Store) -> Path:
    """Return the folder of a task's data set.

    It is the given folder, else the folder that $FLICKR30K_ROOT names, else the embedded sample, which is written at first use.
    The variable has the name of the data set in capitals. A pack, local or at an address, is opened into the store.
    """
    name = task.card.data or name
    named = given or os.environ.get(f"{name.upper()}_ROOT")
    if named:
        return open_pack(named, store) if is_pack(named) else Path(named)
    return sample_folder(task, name, store)


def sample_folder(task: Task, name: str, store: Store) -> Path:
    """Return the folder of a task's embedded sample, which is written at first use."""

    def make(path: Path) -> Path:
        with new_folder(path) as temporary:
            task.write_sample(temporary)
        return path

    return store.get_or_create(store.sample(name, task.sample_version()), existing_folder, make)
