"""The grammar of arms: an objective or a weighted sum of objectives, and the initializer of the student."""

from __future__ import annotations

import functools
import math
import operator
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from harness.core.builtins import OBJECTIVES, Objective
from harness.core.errors import HarnessError
from harness.core.plugins import code_digest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.config import DistillConfig
    from harness.distill.model.tower import Encoded

Side = Literal["transport", "standard", "control"]

UNTRAINED, FITTED, ENGLISH_FITTED = "none", "ridge", "ridge-english"
STEPLESS = (UNTRAINED, FITTED, ENGLISH_FITTED)
"""Objectives without training steps: the untrained student, and the student with its projection fitted in closed form, on the
pairs or on English text alone."""


DEFAULT_INIT = "random"
"""The initializer of an arm that names none."""
_FORMER_NAMES = {"teacher": "random"}


def _current_name(init: str) -> str:
    return _FORMER_NAMES.get(init, init)


InitializerName = Annotated[str, AfterValidator(_current_name)]
"""The name of an initializer, `NAME` or `NAME:ARGUMENT`. Former names, which older records hold, become the current ones."""


def parse_objective(text: str) -> list[tuple[float, str]]:
    """Return weights and names of an objective `NAME` or a sum `NAME + 0.5*NAME + ...`, or [] for those without steps.

    Raises HarnessError for invalid syntax, for a weight that is not a positive number, and for an unknown name.

    >>> parse_objective("ot-token + 0.5*kd-mse")
    [(1.0, 'ot-token'), (0.5, 'kd-mse')]
    """
    if text.strip() in STEPLESS:
        return []
    terms = []
    for term in text.split("+"):
        weight, star, name = term.rpartition("*")
        name = name.strip()
        if not name or "*" in weight:
            raise HarnessError(f"objective {text!r}: each term is NAME or WEIGHT*NAME, as in 'ot-token + 0.5*kd-mse'")
        OBJECTIVES.origin(name)
        terms.append((_positive_weight(weight.strip(), text) if star else 1.0, name))
    names = [name for _, name in terms]
    if len(set(names)) < len(names):
        raise HarnessError(f"objective {text!r} names one objective twice: give it one weight")
    return terms


def _positive_weight(weight: str, text: str) -> float:
    """Return a weight of an objective. Raises HarnessError unless it is a finite number above 0."""
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise HarnessError(f"objective {text!r}: the weight {weight!r} is not a positive number, as in '0.5*kd-mse'")
    return value


def spell_objective(text: str) -> str:
    """Return an objective in canonical spelling, so that spaces and zeros do not change the tower. Raises as `parse_objective`.

    >>> spell_objective("ot-token+0.50*kd-mse")
    'ot-token + 0.5*kd-mse'
    """
    if not parse_objective(text):
        return text.strip()
    return " + ".join(name if weight == 1 else f"{weight!r}*{name}".replace("e+", "e") for weight, name in parse_objective(text))


def objective_code_digests(text: str) -> list[str]:
    """Return digests of the code of an objective's plug-in terms, since different code under one name gives a different tower."""
    names = [name for _, name in parse_objective(text)]
    return [code_digest(OBJECTIVES.load(name)) for name in names if not OBJECTIVES.find(name).builtin]


def reads_entities(text: str) -> bool:
    """Return whether an objective, or a term of a sum, needs to know which tokens name entities (`Encoded.entities`).

    `ot-entity` does. So does a plug-in whose function has the attribute `reads_entities = True`.
    """
    entries = [(name, OBJECTIVES.find(name)) for _, name in parse_objective(text)]
    return any(
        "entity_weight" in entry.reads if entry.builtin else getattr(OBJECTIVES.load(name), "reads_entities", False)
        for name, entry in entries
    )


def load_objective(text: str) -> Objective:
    """Return the loss of an objective or a sum of objectives. Raises HarnessError as `parse_objective` does."""
    terms = [(weight, OBJECTIVES.load(name)) for weight, name in parse_objective(text)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
        losses = [weight * objective(student, teacher, config) for weight, objective in terms]
        return functools.reduce(operator.add, losses)

    return weighted


CONTROLS = ("association", "ibm1", "ibm1-agreed", "ibm1-teacher-tokens")
"""The initializers that are controls of those with transport."""


def side_of(objective: str, init: str) -> Side:
    """Return the side of the comparison that a tower is on.

    It is on transport's side if its loss or its initializer uses transport. A control is untrained, or is initialized by an
    alignment that differs from one of transport's in the transport alone: `association`, or a kind of `ibm1`. All others are
    standard distillation, published initializers included.

    >>> side_of("ot-token + 0.5*kd-mse", "random"), side_of("none", "ot-sentences")
    ('transport', 'transport')
    >>> side_of("kd-mse", "ibm1-teacher-tokens"), side_of("kd-mse", "ramen")
    ('control', 'standard')
    """
    # Records may name objectives that are not installed here.
    if re.search(r"\bot-", objective) or init.startswith("ot-"):
        return "transport"
    return "control" if objective == UNTRAINED or init in CONTROLS else "standard"


def spell_arm(objective: str, init: str) -> str:
    """Return the name of an arm in commands, tables, records and pages. The default initializer is left out.

    >>> spell_arm("kd-mse", "ot-sentences"), spell_arm("ot-token + 0.5*kd-mse", "random")
    ('kd-mse@ot-sentences', 'ot-token + 0.5*kd-mse')
    """
    return objective if init == DEFAULT_INIT else f"{objective}@{init}"


def split_arm(text: str, init: str = DEFAULT_INIT) -> tuple[str, str]:
    """Return the objective and the initializer of an arm `OBJECTIVE` or `OBJECTIVE@INITIALIZER`.

    init: the initializer of an arm that names none. Raises HarnessError if a side of the `@` is empty.

    >>> split_arm("kd-mse@hf:me/model@main"), split_arm("ot-token")
    (('kd-mse', 'hf:me/model@main'), ('ot-token', 'random'))
    """
    objective, at, own = (part.strip() for part in text.partition("@"))
    if not objective or (at and not own):
        raise HarnessError(f"arm {text!r}: expected OBJECTIVE or OBJECTIVE@INITIALIZER, as in kd-mse@ot-sentences")
    return objective, _current_name(own) if at else init
