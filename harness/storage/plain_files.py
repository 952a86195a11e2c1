"""Refuse FIFOs, sockets and devices as input files: opening a FIFO waits for a writer, and a device may have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from harness.core.errors import HarnessError

_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_plain_file(path: Path | str) -> None:
    """Raise HarnessError if a path leads to a FIFO, a socket or a device. Readers report missing files and folders themselves."""
    try:
        kind = _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 (called once per image)
    except (OSError, ValueError):
        return
    if kind:
        raise HarnessError(f"{path} is {kind}: expected a plain file; write its content into one")
