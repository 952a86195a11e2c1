"""What an arm requires of its teacher. An arm that a teacher does not serve is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from harness.core.arms import STEPLESS, parse_objective, reads_entities
from harness.core.builtins import INITIALIZERS, OBJECTIVES
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, LayerDonor, TokenEncoder, TokenLocator
from harness.core.registry import split_spec


class UnservedArmError(HarnessError):
    """A teacher lacks what an arm requires."""


def check_teacher(config: DistillConfig, teacher: Encoder) -> None:
    """Raise UnservedArmError if a teacher lacks a method that an arm requires. Loads no model.

    The error names the method and the arms that do without it.
    """
    arm, needs = config.arm, initializer_needs(config.init)
    trained = parse_objective(config.objective)
    if trained and not isinstance(teacher, TokenEncoder):
        raise UnservedArmError(
            f"{teacher.name} gives no token states (encode_tokens), and {arm} is trained on them: without them there are "
            f"{', '.join(STEPLESS)}"
        )
    if "states" in needs and not isinstance(teacher, TokenEncoder):
        raise UnservedArmError(
            f"{teacher.name} gives no token states (encode_tokens), and {arm} aligns them: {initializers_without('states')}"
        )
    if "layers" in needs and not isinstance(teacher, LayerDonor):
        raise UnservedArmError(
            f"{teacher.name} lends no layers (donate_layers), and {arm} starts from them: {initializers_without('layers')}"
        )
    if isinstance(teacher, TokenLocator):
        return
    spans = f"{teacher.name} does not give the character spans of its tokens (locate_tokens)"
    if reads_entities(config.objective):
        others = [name for name in OBJECTIVES.builtin_names() if not reads_entities(name)]
        raise UnservedArmError(
            f"{spans}, and {config.objective} needs them to find the tokens of entities: without them there are "
            f"{', '.join(others)}"
        )
    if "spans" in needs:
        raise UnservedArmError(f"{spans}, and {arm} needs them to find words: {initializers_without('spans')}")
    if config.spelling > 0:
        raise UnservedArmError(f"{spans}, and --spelling needs them to compare spellings: leave --spelling out")


def check_model(configs: Sequence[DistillConfig], teacher: Encoder) -> dict[DistillConfig, UnservedArmError]:
    """Return an error for each arm that the model of a teacher does not serve, although its class has the methods.

    Loads the model if an arm requires its layers or the character spans of its tokens.
    """
    found: dict[DistillConfig, UnservedArmError] = {}
    if needing := [config for config in configs if "layers" in initializer_needs(config.init)]:
        found |= check_layers(needing, teacher)
    if located := [config for config in configs if reads_spans(config)]:
        try:
            cast(TokenLocator, teacher).locate_tokens(["a"], ENGLISH)
        except HarnessError as error:
            found |= {config: UnservedArmError(f"{config.arm} reads the places of tokens, but {error}") for config in located}
    return found


def check_layers(configs: Sequence[DistillConfig], teacher: Encoder) -> dict[DistillConfig, UnservedArmError]:
    """Return an error for each arm, of those that start from the teacher's layers, that its model does not serve."""
    try:
        lent = cast(LayerDonor, teacher).donate_layers()
    except HarnessError as error:
        lines = {config: f"{config.arm} starts from the layers of {teacher.name}, but {error}" for config in configs}
        return {config: UnservedArmError(f"{line}: {initializers_without('layers')}") for config, line in lines.items()}
    keeping = [config for config in configs if "tokenizer" in initializer_needs(config.init)]
    return {
        config: UnservedArmError(
            f"{config.arm} reads the tokenizer of {teacher.name}, which has no form of the tokenizers library "
            f"(tokenizer.json): {initializers_without('tokenizer')}"
        )
        for config in keeping
        if lent.tokenizer is None
    }


def reads_spans(config: DistillConfig) -> bool:
    """Return whether an arm reads the character spans of the teacher's tokens."""
    return config.spelling > 0 or reads_entities(config.objective) or "spans" in initializer_needs(config.init)


def initializer_needs(init: str) -> tuple[str, ...]:
    """Return what an initializer takes from the teacher, as in `RegistryEntry.needs`. Nothing is known of plug-ins."""
    return INITIALIZERS.find(split_spec(init)[0]).needs


def initializers_without(part: str) -> str:
    """Return the built-in initializers that do without a part of the teacher, as the end of a message."""
    names = [name for name in INITIALIZERS.builtin_names() if part not in INITIALIZERS.find(name).needs]
    return f"initializers without are {', '.join(names)}"
