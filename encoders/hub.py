"""Folders of the Hugging Face hub's cache, and whether what lies in a model's folder is all of it."""

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
    """A folder of the hub's cache that holds the files of one choice (patterns), the first that the repository can serve.

    The network is asked only for what the cache lacks. `beside`: patterns of what else is fetched where it is there.
    `instead`: what to type for a copy of it.
    Raises HarnessError if neither has it, or only a part of it.
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
            except Exception as error:  # many kinds, of the hub, of its HTTP library and of the system
                problem = problem if cached else error
                lacking = lacking or files_named_missing(error)
                continue
            # Only the hub can tell of which file a download was that was broken off, and whether that is needed. Without network
            # `snapshot_download` gives what the cache has.
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
    """Whether a folder has a file of each pattern, and not only a link to one."""
    return all(any(file.is_file() for file in folder.glob(pattern)) for pattern in choice)


def missing_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Files of the patterns that are promised and not there: by a link whose end is missing, or by an index of shards."""
    promised = {file for file in folder.rglob("*") if file.is_symlink()}
    for index in folder.rglob("*.index.json"):
        whole = index.with_name(index.name.removesuffix(".index.json"))
        shards = read_json_or_empty(index).get("weight_map")
        if isinstance(shards, dict) and not whole.is_file():
            promised |= {index.parent / str(shard) for shard in shards.values()}
    names = sorted(file.relative_to(folder).as_posix() for file in promised if not file.is_file())
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def partial_downloads(folder: Path) -> list[str]:
    """Downloads into the cache of a snapshot that were broken off or still run, by the name of their blob."""
    blobs = folder.parent.parent / "blobs"
    parts = blobs.glob(f"*{_PARTIAL}") if folder.parent.name == "snapshots" else []
    return sorted(f"blobs/{part.name}" for part in parts if not (blobs / part.name.partition(".")[0]).exists())


def hub_answers(repo: str) -> bool:
    """Whether the hub answers for a repository."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, timeout=10)
    except Exception:  # many kinds, of the hub and of its HTTP library
        return False
    return True


def files_named_missing(error: Exception) -> list[str]:
    """What the hub's own list of a repository's files, where it was kept, says that the cache lacks."""
    found = re.search(r"files?\(?s?\)? (?:is|are) missing \(([^)]+)\)", str(error)) if hasattr(error, "snapshot_path") else None
    return found[1].split(", ") if found else []


def incomplete_error(name: str, repo: str, lacking: Sequence[str]) -> HarnessError:
    """What to say of a copy in the cache that somebody began to download."""
    unfinished = lacking[0].endswith(_PARTIAL)
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    way_out = ", or delete it, if it is of a file that is not needed" if unfinished else ""
    return HarnessError(
        f"{name}: its copy in the hub's cache is half-filled: {lacking[0]}{more} is {'unfinished' if unfinished else 'missing'}; "
        f"complete it with: hf download {repo}{way_out}"
    )


def unavailable_error(name: str, place: str, problem: Exception, instead: str = "local-dir:FOLDER") -> HarnessError:
    """What to say of files that are neither on this machine nor to be had."""
    return HarnessError(
        f"{name}: its files are not on this machine and could not be downloaded from {place} ({type(problem).__name__}); "
        f"run once with network, or copy the model to a folder and use {instead}"
    )


def check_shards(folder: Path) -> None:
    """Raise HarnessError for a model's folder that lacks what its links or its index of shards promise."""
    # Where both forms of the weights lie side by side, transformers reads the first.
    weights = WEIGHT_FILES[:1] if any(folder.glob("model*.safetensors")) else WEIGHT_FILES
    if missing := missing_files(folder, weights):
        more = f", and so are {len(missing) - 1} more" if len(missing) > 1 else ""
        raise HarnessError(f"{folder / missing[0]} is missing{more}: copy the model again, whole")


def check_adapter(folder: Path) -> None:
    """Raise HarnessError for a folder with an adapter where peft is not installed: transformers would leave it out in silence."""
    if importlib.util.find_spec("peft") is None and (found := next(folder.rglob(ADAPTER), None)):
        raise HarnessError(
            f"{found} is of an adapter, which would be left out: pip install peft, or merge it into the model (merge_and_unload)"
        )


def require_transformers(name: str) -> None:
    """Raise HarnessError if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise HarnessError(f"the text model {name} needs transformers: pip install 'flickr30k-harness[hf]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' log lines and warnings off the console.

    open_clip logs through the root logger, which would also give it a handler for good if it had none.
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
