"""The design lock of a study, and the log of its looks at the data.

The design is kept in the store with the study's first record. A later run with another design is refused, so that no arm, seed or
option of the search is chosen by looking at results. Seeds alone may be added: each set of seeds that was reported before counts
as a look, and every p-value is multiplied by the number of looks (Bonferroni).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.core.digests import digest_json
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.records.schema import Schema
from harness.storage.store import new_file
from harness.study.design import StudyConfig

_FREE = ("title", "question", "data", "resamples", "seeds")
"""What may change after the first record: texts, the place of the data, the precision of p-values, and added seeds."""


class LoggedLook(Schema):
    """A report of the study: when it was made, with which seeds, and how many cells were measured."""

    created: str = Field(description="UTC, ISO 8601")
    seeds: tuple[int, ...]
    done: int
    planned: int


class DesignLock(Schema):
    """The locked design of a study, and its looks in the order of time."""

    locked: str = Field(description="UTC, ISO 8601")
    digest: str = Field(description="of the design, without what may change")
    seeds: tuple[int, ...]
    design: dict[str, Any]
    looks: tuple[LoggedLook, ...] = ()

    def count_looks(self, seeds: tuple[int, ...]) -> int:
        """Return the number of looks at the data, the one at these seeds included.

        >>> earlier = LoggedLook(created="2026-12-01T08:00:00+00:00", seeds=(0, 1), done=4, planned=4)
        >>> lock = DesignLock(locked=earlier.created, digest="", seeds=(0, 1), design={}, looks=(earlier, earlier))
        >>> lock.count_looks((0, 1)), lock.count_looks((0, 1, 2))
        (1, 2)
        """
        return len({look.seeds for look in self.looks} | {seeds})


def lock_design(config: StudyConfig, path: Path) -> DesignLock:
    """Return the lock of a study, made now if there is none. path: its file in the store.

    Raises HarnessError if the design differs from the locked one, or lacks one of its seeds, naming what changed.
    """
    design = config.model_dump(mode="json", exclude=set(_FREE))
    held = read_lock(path)
    if held is None:
        held = DesignLock(locked=now(), digest=digest_json(design), seeds=config.seeds, design=design)
        write_lock(held, path)
        return held
    changed = [key for key in design if design[key] != held.design.get(key)]
    changed += [] if set(held.seeds) <= set(config.seeds) else ["seeds"]
    if changed:
        raise HarnessError(
            f"the design of this study is locked since {held.locked[:10]}, and {', '.join(changed)} changed: undo the change, or "
            f"save the file under another name for a new study (the lock is {path})"
        )
    return held


def log_look(lock: DesignLock, config: StudyConfig, done: int, planned: int, path: Path) -> DesignLock:
    """Add a look to the log and return the lock."""
    look = LoggedLook(created=now(), seeds=config.seeds, done=done, planned=planned)
    held = lock.model_copy(update={"seeds": config.seeds, "looks": (*lock.looks, look)})
    write_lock(held, path)
    return held


def read_lock(path: Path) -> DesignLock | None:
    """Return the lock in a file, None if there is none. Raises HarnessError if the file holds something else."""
    if not path.is_file():
        return None
    try:
        return DesignLock.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise HarnessError(f"{path} does not hold the design of a study: {short_message(error)}; delete it") from None


def write_lock(lock: DesignLock, path: Path) -> None:
    """Write a lock."""
    with new_file(path) as temporary:
        temporary.write_text(lock.model_dump_json(indent=1) + "\n", encoding="utf-8")


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
