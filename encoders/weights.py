"""Weights files: their precision, and the reasons why they cannot be loaded."""

from __future__ import annotations

import json
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.encoders.file_names import MODEL_CONFIG_FILE, SAFETENSORS_FILE
from harness.encoders.text_preparation import read_json_or_empty

_HALF = ("float16", "bfloat16")
_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors itself
_CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{old}', 'cpu', weights_only=False); "
    "w = w.get('state_dict', w) if isinstance(w, dict) else w.state_dict(); "
    "s.save_file({{k: v.contiguous().clone() for k, v in w.items()}}, '{new}', {{'format': 'pt'}})\""
)


def configured_in_half(config: Mapping[str, Any]) -> bool:
    """Return whether a model's configuration makes transformers compute in half precision."""
    return configured_dtype(config) in _HALF


def loads_in_half(folder: Path) -> bool:
    """Return whether transformers computes a folder's model in half precision by default.

    The configured precision comes first, then the precision of the weights.
    """
    config = read_json_or_empty(folder / MODEL_CONFIG_FILE)
    if configured_dtype(config):
        return configured_in_half(config)
    weights = sorted(file for pattern in ("model*.safetensors", "pytorch_model*.bin") for file in folder.glob(pattern))
    return any(map(saved_in_half, weights))


def configured_dtype(config: Mapping[str, Any]) -> str:
    """Return the dtype that a model's configuration names, or an empty string if it names none."""
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def saved_in_half(weights: Path) -> bool:
    """Return whether a weights file has tensors in half precision.

    Only the file's table of contents is read. A damaged file gives False, and loading it raises the error.
    """
    try:
        if weights.suffix == ".safetensors":
            with weights.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = from_json(file.read(min(size, _MAX_HEADER)))
            return any(entry.get("dtype") in ("F16", "BF16") for entry in header.values())
        with zipfile.ZipFile(weights) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):
        return False
    return any(kind in content for content in pickles for kind in (b"HalfStorage", b"BFloat16Storage"))


@contextmanager
def float32_config(tower: Path) -> Iterator[Path]:
    """Yield a folder with a text tower's configuration that does not set half precision.

    It is the folder itself if its configuration does not set half precision, else a temporary folder.
    """
    config = read_json_or_empty(tower / MODEL_CONFIG_FILE)
    if not configured_in_half(config):
        yield tower
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (Path(folder) / MODEL_CONFIG_FILE).write_text(json.dumps(kept), encoding="utf-8")
        yield Path(folder)


def loading_problem(error: BaseException, weights: Path) -> str:
    """Return on one line why weights cannot be loaded. For a pickle that would run code, return how to convert it.

    torch's own message advises users to run that code.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, pickle.UnpicklingError):
            return (
                "it holds more than tensors, and reading it would run code from the file. If you trust it, convert it "
                f"once and use the result: {_CONVERT.format(old=weights, new=weights.with_name(SAFETENSORS_FILE))}"
            )
        seen = seen.__cause__ or seen.__context__
    return " ".join(str(error).split())[:300]
