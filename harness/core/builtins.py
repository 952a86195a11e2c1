"""The registries and their built-in entries, and the functions that register plug-ins.

Built-ins are `module:attribute` strings, imported when asked for, so that listing them costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.core.data import Language, Spans
from harness.core.protocols import Encoder, Task, Translator
from harness.core.registry import Registry, made

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.config import DistillConfig, RunConfig
    from harness.distill.model.tower import Encoded, StartingModel
    from harness.evaluation.executors.jobs import Executor
    from harness.retrieval.scorers import Maker

TASKS: Registry[Callable[[], Task]] = Registry(
    "task",
    {
        "flickr30k": "harness.tasks.flickr30k:Flickr30k",
        "xtd": "harness.tasks.xtd:xtd",
        "crossmodal3600": "harness.tasks.crossmodal3600:crossmodal3600",
        "flickr30k-entities": "harness.tasks.flickr30k_entities:Flickr30kEntities",
        "flickr30k-clir": "harness.tasks.flickr30k_clir:Flickr30kClir",
        "clir": "harness.tasks.clir:Clir",
    },
    group="harness.tasks",
)
ENCODERS: Registry[Callable[[str, str], Encoder]] = Registry(
    "encoder",
    {
        "sample": "harness.encoders.open_clip.models:sample",
        "open_clip": "harness.encoders.open_clip.models:open_clip_tag",
        "hf-hub": "harness.encoders.open_clip.models:hf_hub",
        "local-dir": "harness.encoders.open_clip.models:local_dir",
        "fast": "harness.encoders.open_clip.faster_variants:fast",
        "bfloat16": "harness.encoders.open_clip.faster_variants:bfloat16",
        "hf": "harness.encoders.hugging_face.models:hugging_face",
        "text": "harness.encoders.hugging_face.text_tower_pairs:beside",
        "features": "harness.encoders.baselines.features:Features",
        "pixels": "harness.encoders.baselines.pixels:Pixels",
        "random": "harness.encoders.baselines.random:Random",
    },
    group="harness.encoders",
)


def load_encoder(spec: str, device: str) -> Encoder:
    """The encoder that `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT` names, its model not loaded yet.

    Raises HarnessError for an unknown name, and for a plug-in that is no encoder.
    """
    return made(ENCODERS, spec, device, ("name", "encode_images", "encode_texts", "fingerprint"))


TRANSLATORS: Registry[Callable[[str, str], Translator]] = Registry(
    "translator", {"hf": "harness.encoders.hugging_face.translation:hugging_face"}, group="harness.translators"
)


def load_translator(spec: str, device: str) -> Translator:
    """The translator that `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT` names, its model not loaded yet.

    Raises HarnessError for an unknown name, and for a plug-in that is no translator.
    """
    return made(TRANSLATORS, spec, device, ("name", "translate", "fingerprint"))


SCORERS: Registry[Callable[[RunConfig, Task, Path], Maker]] = Registry(
    "scorer",
    {
        "plain": "harness.retrieval.scorers:plain",
        "entities": "harness.retrieval.scorers:entities",
        "maxsim": "harness.retrieval.scorers:maxsim",
    },
)
Chunker: TypeAlias = "Callable[[Sequence[str], Language], Sequence[Spans]]"
CHUNKERS: Registry[Callable[[str], Chunker]] = Registry(
    "phrase chunker",
    {"simple": "harness.tasks.entities.chunking:simple_chunker", "spacy": "harness.tasks.entities.chunking:spacy_chunker"},
    group="harness.chunkers",
)
Objective: TypeAlias = "Callable[[Encoded, Encoded, DistillConfig], Tensor]"
OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "kd-mse": "harness.distill.objectives:kd_mse",
        "kd-cosine": "harness.distill.objectives:kd_cosine",
        "kd-contrastive": "harness.distill.objectives:kd_contrastive",
        "kd-relation": "harness.distill.objectives:kd_relation",
        "ot-token": "harness.distill.objectives:ot_token",
        "ot-entity": "harness.distill.objectives:ot_entity",
        "ot-batch": "harness.distill.objectives:ot_batch",
        "ot-unbalanced": "harness.distill.objectives:ot_unbalanced",
    },
    group="harness.objectives",
)
STARTS: Registry[Callable[[str], StartingModel]] = Registry(
    "start", {"hf": "harness.encoders.hugging_face.initial_models:HuggingFaceStart"}
)


def starting_model(init: str) -> StartingModel | None:
    """The model that the student's start `NAME:ARGUMENT` names; None where it starts from the teacher, or from scratch."""
    name, colon, argument = init.partition(":")
    return STARTS.load(name)(argument) if colon else None


EXECUTORS: Registry[Executor] = Registry(
    "executor",
    {"local": "harness.evaluation.executors.local:local", "ray": "harness.evaluation.executors.ray:on_ray"},
    group="harness.executors",
)


def register_encoder(name: str, make: Callable[[str, str], Encoder]) -> None:
    """Add an encoder: `make(argument, device)` is called for `--encoder NAME:ARGUMENT`; a class will do.

    Raises HarnessError for a name that something else has, naming both.
    """
    ENCODERS.register(name, make)


def register_task(name: str, make: Callable[[], Task]) -> None:
    """Add a task: `make()` is called for `--task NAME`. Raises HarnessError as `register_encoder` does."""
    TASKS.register(name, make)


def register_translator(name: str, make: Callable[[str, str], Translator]) -> None:
    """Add a translator: `make(argument, device)` is called for `--translator NAME:ARGUMENT`; a class will do.

    Raises HarnessError as `register_encoder` does.
    """
    TRANSLATORS.register(name, make)


def register_objective(name: str, loss: Objective) -> None:
    """Add a distillation objective, `loss(student, teacher, config)`. Raises HarnessError as `register_encoder` does."""
    OBJECTIVES.register(name, loss)


def register_chunker(name: str, make: Callable[[str], Chunker]) -> None:
    """Add a phrase chunker: `make(argument)` is called for `--chunker NAME:ARGUMENT`, and gives `chunk(texts, language)`.

    Raises HarnessError as `register_encoder` does.
    """
    CHUNKERS.register(name, make)


def register_executor(name: str, make: Executor) -> None:
    """Add an executor: `make(choices, store, console)` is called for `--executor NAME`.

    Raises HarnessError as `register_encoder` does.
    """
    EXECUTORS.register(name, make)
