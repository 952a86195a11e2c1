"""Collect the code version, packages and command that produce a record."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import harness
from harness.records.schema import Provenance

PACKAGES = (
    "numba", "numpy", "open_clip_torch", "peft", "pillow", "safetensors", "tokenizers", "torch", "torchvision", "transformers"
)  # fmt: skip


def current_provenance(device: str) -> Provenance:
    """Return the provenance of records that this process writes."""
    commit, dirty = checkout_state(Path(harness.__file__).resolve().parent)
    return Provenance(
        version=harness.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=installed_packages(),
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
    )


@cache
def installed_packages() -> dict[str, str]:
    """Return the versions of the libraries that may affect a result."""
    installed = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def command_line() -> str:
    """Return the command line of this process."""
    return shlex.join(["python", "-m", "harness", *sys.argv[1:]])


@cache
def checkout_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout that tracks this package, (None, None) outside a checkout.

    Called once per process, because the process runs the code that it found at its start.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # A copy inside another repository (site-packages in a tracked folder) must not report that commit.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
