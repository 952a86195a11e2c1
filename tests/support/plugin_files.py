"""Plug-in files and packages: written to a folder and run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def harness(*words: str, store: Path, path: tuple[Path, ...] = (), plugins: str = "") -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in ("FLICKR30K_ROOT", "HARNESS_PLUGINS")}
    environment = known | {
        "HARNESS_STORE": str(store),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))),
        **({"HARNESS_PLUGINS": plugins} if plugins else {}),
    }
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, cwd=store, env=environment, capture_output=True, text=True, timeout=300, check=False)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def install(folder: Path, name: str, points: dict[str, dict[str, str]]) -> Path:
    """Write the entry points of a package as an installer does."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items()) for group, entries in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder
