"""Folders of the Hugging Face hub's cache, and checks that a model's folder is complete."""

from __future__ import annotations

import fnmatch
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import HarnessError
from harness.encoders.text_preparation import read_json_or_empty

TEXT_FILES = ("*.json", "*.txt", "*.model")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pth")
ADAPTER = "adapter_config.json"
_PARTIAL = ".incomplete"


def hub_folder(
    repo: str,
    choices: Sequence[Sequence[str]],
    name: str,
    beside: Sequence[str] = TEXT_FILES,
    instead: str = "local-dir:FOLDER",
) -> Path:
    """Return a folder of the hub's cache that holds the files of one choice, the first that the repository provides.

    Each choice is a sequence of file patterns. The network is used only for files that the cache lacks.
    `beside`: patterns of optional files, which are fetched if they exist.
    `instead`: the argument that names a local copy, for error messages.
    Raises HarnessError if neither the cache nor the hub has the files, or if only a part of them is available.
    """
    from huggingface_hub import snapshot_download

    problem: Exception = FileNotFoundError(f"{repo} has no {' or '.join(choice[-1] for choice in choices)}")
    lacking: list[str] = []
    for cached in (True, False):
        for choice in choices:
            patterns = [*choice, *beside]
            try:
                with quiet():
                    folder = Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=cached))
            except Exception as error:  # the hub, its HTTP library and the system raise many types
                problem = problem if cached else error
                lacking = lacking or files_named_missing(error)
                continue
            # Only the hub knows which file a partial download belongs to, and whether that file is needed.
            # Without network, `snapshot_download` returns the folder as it is in the cache.
            gaps = missing_files(folder, patterns) or partial_downloads(folder)
            if gaps and gaps[0].endswith(_PARTIAL) and not cached and hub_answers(repo):
                gaps = []
            if not gaps and has_files(folder, choice):
                return folder
            lacking = lacking or gaps
    if lacking:
        raise incomplete_error(name, repo, lacking) from problem
    raise unavailable_error(name, f"https://huggingface.co/{repo}", problem, instead) from problem


def has_files(folder: Path, choice: Sequence[str]) -> bool:
    """Return whether a folder has a file for each pattern. A broken link does not count."""
    return all(any(file.is_file() for file in folder.glob(pattern)) for pattern in choice)


def missing_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the missing files that match the patterns: targets of broken links, and shards that an index lists."""
    promised = {file for file in folder.rglob("*") if file.is_symlink()}
    for index in folder.rglob("*.index.json"):
        whole = index.with_name(index.name.removesuffix(".index.json"))
        shards = read_json_or_empty(index).get("weight_map")
        if isinstance(shards, dict) and not whole.is_file():
            promised |= {index.parent / str(shard) for shard in shards.values()}
    names = sorted(file.relative_to(folder).as_posix() for file in promised if not file.is_file())
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def partial_downloads(folder: Path) -> list[str]:
    """Return the blob names of unfinished downloads in a snapshot's cache, whether interrupted or still running."""
    blobs = folder.parent.parent / "blobs"
    parts = blobs.glob(f"*{_PARTIAL}") if folder.parent.name == "snapshots" else []
    return sorted(f"blobs/{part.name}" for part in parts if not (blobs / part.name.partition(".")[0]).exists())


def hub_answers(repo: str) -> bool:
    """Return whether the hub is reachable and knows a repository."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, timeout=10)
    except Exception:  # the hub and its HTTP library raise many types
        return False
    return True


def files_named_missing(error: Exception) -> list[str]:
    """Return the missing files that the hub's error names, if the cache has the repository's list of files."""
    found = re.search(r"files?\(?s?\)? (?:is|are) missing \(([^)]+)\)", str(error)) if hasattr(error, "snapshot_path") else None
    return found[1].split(", ") if found else []


def incomplete_error(name: str, repo: str, lacking: Sequence[str]) -> HarnessError:
    """Return the error for an incomplete copy in the hub's cache."""
    unfinished = lacking[0].endswith(_PARTIAL)
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    way_out = ", or delete it if it belongs to a file that is not needed" if unfinished else ""
    return HarnessError(
        f"{name}: its copy in the hub's cache is incomplete: {lacking[0]}{more} is {'unfinished' if unfinished else 'missing'}; "
        f"complete it with: hf download {repo}{way_out}"
    )


def unavailable_error(name: str, place: str, problem: Exception, instead: str = "local-dir:FOLDER") -> HarnessError:
    """Return the error for files that are not on this machine and cannot be downloaded."""
    return HarnessError(
        f"{name}: its files are not on this machine and could not be downloaded from {place} ({type(problem).__name__}); "
        f"run once with network, or copy the model to a folder and use {instead}"
    )


def check_shards(folder: Path) -> None:
    """Raise HarnessError if a model's folder lacks files that its links or its index of shards refer to."""
    # If the folder has both formats of the weights, transformers reads the first.
    weights = WEIGHT_FILES[:1] if any(folder.glob("model*.safetensors")) else WEIGHT_FILES
    if missing := missing_files(folder, weights):
        more = f", and so are {len(missing) - 1} more" if len(missing) > 1 else ""
        raise HarnessError(f"{folder / missing[0]} is missing{more}: copy the complete model again")


def check_adapter(folder: Path) -> None:
    """Raise HarnessError if a folder has an adapter and peft is not installed. transformers would silently ignore the adapter."""
    if importlib.util.find_spec("peft") is None and (found := next(folder.rglob(ADAPTER), None)):
        raise HarnessError(
            f"{found} belongs to an adapter, which would be ignored: pip install peft, "
            "or merge it into the model (merge_and_unload)"
        )


def require_transformers(name: str) -> None:
    """Raise HarnessError if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise HarnessError(f"the text model {name} needs transformers: pip install 'flickr30k-harness[hf]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log lines and warnings of libraries.

    open_clip logs through the root logger. That would add a permanent handler to the root logger if it had none.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    before = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
