"""Which side of the comparison a tower is on."""

from __future__ import annotations

import re
from typing import Literal

from harness.core.objective_terms import UNTRAINED

Side = Literal["transport", "standard", "control"]


def side_of(objective: str, init: str) -> Side:
    """Whose side a tower is on: transport's where its loss or its start transports; nobody's where it shows what that is due to.

    A control is not trained, or starts from an alignment without transport. All others are standard distillation.

    >>> side_of("ot-token + 0.5*kd-mse", "teacher"), side_of("none", "ot-sentences"), side_of("kd-mse", "ibm1")
    ('transport', 'transport', 'control')
    """
    # Others' records may hold objectives that are not installed here.
    if re.search(r"\bot-", objective) or init.startswith("ot-"):
        return "transport"
    return "control" if objective == UNTRAINED or init in ("association", "ibm1") else "standard"
