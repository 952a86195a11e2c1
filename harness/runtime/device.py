"""The device that torch computes on."""

from __future__ import annotations

from harness.core.errors import HarnessError


def resolve_device(name: str) -> str:
    """Return the device of a name; `auto` is `cuda` if available, else `cpu`. Raises HarnessError for an unavailable device.

    >>> resolve_device("cpu")
    'cpu'
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise HarnessError(f"device {name!r} is not available here; try --device auto") from error
    return name
