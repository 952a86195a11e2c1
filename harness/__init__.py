"""A benchmark harness for image-text retrieval with distilled multilingual text towers.

`harness` is the engine. `harness.tasks`, `harness.encoders` and `harness.leaderboards` are packages next to it. In a wheel they
lie inside this package. In a checkout they lie at the root of the repository and are found through `__path__`.
"""

from pathlib import Path

_root = Path(__file__).resolve().parent.parent
if (_root / "tasks" / "sources.toml").is_file():
    __path__.append(str(_root))

# These imports need the extended `__path__`.
from harness.core.builtins import (  # noqa: E402
    register_chunker,
    register_encoder,
    register_executor,
    register_initializer,
    register_objective,
    register_scorer,
    register_task,
    register_translator,
)
from harness.core.errors import HarnessError  # noqa: E402
from harness.core.plugins import fingerprint  # noqa: E402

__all__ = [
    "HarnessError",
    "fingerprint",
    "register_chunker",
    "register_encoder",
    "register_executor",
    "register_initializer",
    "register_objective",
    "register_scorer",
    "register_task",
    "register_translator",
]
__version__ = "0.1.0"
