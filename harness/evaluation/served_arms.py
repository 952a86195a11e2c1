"""Refuse arms that the teacher's model does not serve, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.core.config import DistillConfig
from harness.distill.recipe import Recipe
from harness.distill.teachers import UnservedArmError, check_model
from harness.evaluation.planning import Plan
from harness.storage.store import Store


def unserved_arms(recipes: Iterable[Recipe], store: Store) -> dict[DistillConfig, UnservedArmError]:
    """Return an error for each arm without a tower that its teacher's model does not serve.

    A model is loaded only if a tower is missing, which needs the model anyway.
    """
    missing = [recipe for recipe in recipes if not store.tower(recipe.digest).is_dir()]
    teachers = {recipe.teacher.fingerprint(): recipe.teacher for recipe in missing}
    found: dict[DistillConfig, UnservedArmError] = {}
    for fingerprint, teacher in teachers.items():
        configs = [recipe.config for recipe in missing if recipe.teacher.fingerprint() == fingerprint]
        found |= check_model(list(dict.fromkeys(configs)), teacher)
    return found


def refuse_unserved(recipes: Iterable[Recipe], store: Store) -> None:
    """Raise UnservedArmError for the first arm that its teacher's model does not serve."""
    for error in unserved_arms(recipes, store).values():
        raise error


def without_unserved(plans: Sequence[Plan], store: Store) -> list[Plan]:
    """Return plans without the default arms that the teacher's model does not serve, each with a remark on them.

    Raises UnservedArmError for an arm that the user named.
    """
    errors = unserved_arms((cell.recipe for plan in plans for cell in plan.cells if cell.recipe), store)
    if errors and plans[0].config.names_arms:
        raise next(iter(errors.values()))
    return [served_plan(plan, errors) for plan in plans]


def served_plan(plan: Plan, errors: dict[DistillConfig, UnservedArmError]) -> Plan:
    """Return a plan without the cells of unserved arms."""
    left_out = [cell.recipe.config for cell in plan.cells if cell.recipe and cell.recipe.config in errors]
    if not left_out:
        return plan
    cells = tuple(cell for cell in plan.cells if not (cell.recipe and cell.recipe.config in errors))
    lines = dict.fromkeys(f"{config.arm} is left out: {errors[config]}" for config in left_out)
    return replace(plan, cells=cells, remark="; ".join(filter(None, (plan.remark, *lines))))
