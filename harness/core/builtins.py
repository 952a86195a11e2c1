"""The registries and their built-in entries, and the functions that register plug-ins.

Built-ins are `module:attribute` strings that are imported on use, so that listing them is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from harness.core.data import Language, Spans
from harness.core.plugins import code_digest, one_line_errors
from harness.core.protocols import Encoder, Task, Translator
from harness.core.registry import Registry, builtin_entry, make_identified, make_plug_in, split_spec

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.config import DistillConfig
    from harness.distill.initializers.interface import Initializer
    from harness.distill.model.tower import Encoded
    from harness.evaluation.executors.jobs import Executor
    from harness.retrieval.scorers import ScoredRun, ScorerFactory

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
        "sample": "harness.encoders.open_clip.models:sample_encoder",
        "open_clip": "harness.encoders.open_clip.models:pretrained_encoder",
        "hf-hub": "harness.encoders.open_clip.models:hub_encoder",
        "local-dir": "harness.encoders.open_clip.models:folder_encoder",
        "fast": "harness.encoders.open_clip.faster_variants:fast_encoder",
        "bfloat16": "harness.encoders.open_clip.faster_variants:bfloat16_encoder",
        "hf": "harness.encoders.hugging_face.models:hugging_face_encoder",
        "text": "harness.encoders.hugging_face.text_tower_pairs:text_tower_pair",
        "features": "harness.encoders.baselines.features:Features",
        "pixels": "harness.encoders.baselines.pixels:Pixels",
        "random": "harness.encoders.baselines.random:Random",
    },
    group="harness.encoders",
)


def load_encoder(spec: str, device: str) -> Encoder:
    """Return the encoder of a spec `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT`.

    The model is not loaded yet. Raises HarnessError for an unknown name, and for a plug-in that is not an encoder.
    """
    return make_identified(ENCODERS, spec, device, ("name", "encode_images", "encode_texts", "fingerprint"))


TRANSLATORS: Registry[Callable[[str, str], Translator]] = Registry(
    "translator", {"hf": "harness.encoders.hugging_face.translation:hugging_face_translator"}, group="harness.translators"
)


def load_translator(spec: str, device: str) -> Translator:
    """Return the translator of a spec with the syntax of `load_encoder`.

    The model is not loaded yet. Raises HarnessError for an unknown name, and for a plug-in that is not a translator.
    """
    return make_identified(TRANSLATORS, spec, device, ("name", "translate", "fingerprint"))


# Built-in scorers declare the fields of `ScoringConfig` that they read.
SCORERS: Registry[Callable[[str, ScoredRun], ScorerFactory]] = Registry(
    "scorer",
    {
        "plain": builtin_entry("harness.retrieval.scorers.plain:make_plain_scorer"),
        "entities": builtin_entry("harness.retrieval.scorers.entities:make_entity_scorer"),
        "maxsim": builtin_entry("harness.retrieval.scorers.maxsim:make_maxsim_scorer"),
        "sinkhorn": builtin_entry(
            "harness.retrieval.scorers.sinkhorn:make_sinkhorn_scorer", reads=("score_temperature", "score_iterations")
        ),
        "inverted-softmax": builtin_entry(
            "harness.retrieval.scorers.inverted_softmax:make_inverted_softmax_scorer", reads=("score_temperature",)
        ),
        "csls": builtin_entry("harness.retrieval.scorers.csls:make_csls_scorer", reads=("score_neighbours",)),
        "qb-norm": builtin_entry("harness.retrieval.scorers.qb_norm:make_qb_norm_scorer", reads=("score_temperature",)),
    },
    group="harness.scorers",
)


def load_scorer(spec: str, run: ScoredRun) -> ScorerFactory:
    """Return the function that makes the scorer of a spec for each retrieval of a run. Specs have the syntax of `load_encoder`.

    Raises HarnessError for an unknown name, for an argument or a run that the scorer does not support, and for a plug-in that
    makes no such function.
    """
    return make_plug_in(SCORERS, spec, ("__call__",), run)


Chunker: TypeAlias = "Callable[[Sequence[str], Language], Sequence[Spans]]"
CHUNKERS: Registry[Callable[[str], Chunker]] = Registry(
    "phrase chunker",
    {"simple": "harness.tasks.entities.chunking:simple_chunker", "spacy": "harness.tasks.entities.chunking:spacy_chunker"},
    group="harness.chunkers",
)
Objective: TypeAlias = "Callable[[Encoded, Encoded, DistillConfig], Tensor]"
# Built-in objectives and initializers declare the options that they read: the fields of `DistillConfig` that can change a tower.
OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "kd-mse": builtin_entry("harness.distill.objectives:kd_mse"),
        "kd-cosine": builtin_entry("harness.distill.objectives:kd_cosine"),
        "kd-contrastive": builtin_entry("harness.distill.objectives:kd_contrastive", reads=("temperature",)),
        "kd-relation": builtin_entry("harness.distill.objectives:kd_relation", reads=("temperature", "diagonal")),
        "ot-token": builtin_entry("harness.distill.objectives:ot_token", reads=("solver", "eps", "sentence_weight")),
        "ot-entity": builtin_entry(
            "harness.distill.objectives:ot_entity", reads=("solver", "eps", "sentence_weight", "entity_weight")
        ),
        "ot-batch": builtin_entry(
            "harness.distill.objectives:ot_batch",
            reads=("temperature", "diagonal", "alpha", "batch_eps", "batch_iterations"),
        ),
        "ot-unbalanced": builtin_entry("harness.distill.objectives:ot_unbalanced", reads=("eps", "rho", "sentence_weight")),
    },
    group="harness.objectives",
)
_NEW_SUBWORDS = ("pooling", "vocabulary", "unpaired")
_ALIGNED = (*_NEW_SUBWORDS, "spelling", "rescale")
_PUBLISHED = (*_NEW_SUBWORDS, "rescale")
_ALIGNED_TEACHER_TOKENS = (*_ALIGNED, "share")
# What an initializer takes from the teacher.
_LAYERS = ("layers",)
_WITH_TOKENIZER = ("layers", "tokenizer")
INITIALIZERS: Registry[Callable[[str], Initializer]] = Registry(
    "initializer",
    {
        "random": builtin_entry("harness.distill.initializers.random:RandomSubwords", reads=_NEW_SUBWORDS, needs=_LAYERS),
        "keep-tokenizer": builtin_entry(
            "harness.distill.initializers.keep_tokenizer:KeepTokenizer", reads=("pooling",), needs=_WITH_TOKENIZER
        ),
        "scratch": builtin_entry("harness.distill.initializers.scratch:Scratch", reads=(*_NEW_SUBWORDS, "size")),
        "association": builtin_entry("harness.distill.initializers.aligned:Association", reads=_ALIGNED, needs=_LAYERS),
        "ibm1": builtin_entry("harness.distill.initializers.aligned:Ibm1", reads=_ALIGNED, needs=_LAYERS),
        "ibm1-agreed": builtin_entry("harness.distill.initializers.aligned:Ibm1Agreed", reads=_PUBLISHED, needs=_LAYERS),
        "ot-vocabulary": builtin_entry("harness.distill.initializers.aligned:OtVocabulary", reads=_ALIGNED, needs=_LAYERS),
        "ot-sentences": builtin_entry("harness.distill.initializers.aligned:OtSentences", reads=_ALIGNED, needs=_LAYERS),
        "ot-contexts": builtin_entry("harness.distill.initializers.aligned:OtContexts", reads=_ALIGNED, needs=_LAYERS),
        "ot-teacher-tokens": builtin_entry(
            "harness.distill.initializers.aligned:OtTeacherTokens", reads=_ALIGNED_TEACHER_TOKENS, needs=_WITH_TOKENIZER
        ),
        "ibm1-teacher-tokens": builtin_entry(
            "harness.distill.initializers.aligned:Ibm1TeacherTokens", reads=_ALIGNED_TEACHER_TOKENS, needs=_WITH_TOKENIZER
        ),
        "fvt": builtin_entry("harness.distill.initializers.fvt:Fvt", reads=_PUBLISHED, needs=_WITH_TOKENIZER),
        "ramen": builtin_entry("harness.distill.initializers.ramen:Ramen", reads=_PUBLISHED, needs=_LAYERS),
        "trans-tokenization": builtin_entry(
            "harness.distill.initializers.trans_tokenization:TransTokenization",
            reads=_PUBLISHED,
            needs=(*_WITH_TOKENIZER, "spans"),
        ),
        "wechsel": builtin_entry("harness.distill.initializers.wechsel:Wechsel", reads=_PUBLISHED, needs=("layers", "spans")),
        "ofa": builtin_entry("harness.distill.initializers.ofa:Ofa", reads=_PUBLISHED, needs=(*_WITH_TOKENIZER, "spans")),
        "focus": builtin_entry("harness.distill.initializers.focus:Focus", reads=_PUBLISHED, needs=_WITH_TOKENIZER),
        "simalign": builtin_entry(
            "harness.distill.initializers.simalign:SimAlign",
            reads=("pooling", "rescale", "share"),
            needs=(*_WITH_TOKENIZER, "states"),
        ),
        "hf": builtin_entry("harness.encoders.hugging_face.initial_models:HuggingFaceInitializer", reads=("pooling", "prefix")),
    },
    group="harness.initializers",
)


def load_initializer(init: str) -> Initializer:
    """Return the initializer that `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT` names.

    Raises HarnessError for an unknown name, for an argument that it does not take, and for a plug-in that is not an initializer.
    """
    return make_plug_in(INITIALIZERS, init, ("fingerprint", "student"))


def is_pretrained(init: str) -> bool:
    """Return whether the students of an initializer are a pretrained model, with its subwords, under a random projection."""
    return split_spec(init)[0] == "hf"


def marks_language(init: str) -> bool:
    """Return whether the tokenizer of an initializer's students depends on the language. It does if nothing else is stated.

    Raises HarnessError as `load_initializer` does.
    """
    return bool(getattr(load_initializer(init), "marks_language", True))


def default_learning_rate(init: str) -> float:
    """Return the peak learning rate of an initializer's students where no rate is given.

    It is lower for pretrained models, whose layers a high rate destroys (docs/multilingual-students.md).
    """
    return 1e-4 if is_pretrained(init) else 1e-3


def initializer_sources(init: str) -> list[str]:
    """Return the digests of an initializer's inputs besides options, teacher and sentences. Most built-in ones have none.

    Raises HarnessError as `load_initializer` does.
    """
    name, argument = split_spec(init)
    if INITIALIZERS.find(name).builtin:
        # The trainer's version covers built-in code, so only an argument needs a digest. Loading the code would import torch.
        return [load_initializer(init).fingerprint()] if argument or name == "hf" else []
    with one_line_errors(f"the fingerprint of the initializer {init} cannot be had"):
        return [code_digest(INITIALIZERS.load(name)), argument, load_initializer(init).fingerprint()]


EXECUTORS: Registry[Executor] = Registry(
    "executor",
    {"local": "harness.evaluation.executors.local:local", "ray": "harness.evaluation.executors.ray:on_ray"},
    group="harness.executors",
)


def register_encoder(name: str, make: Callable[[str, str], Encoder]) -> None:
    """Add an encoder: `make(argument, device)` is called for `--encoder NAME:ARGUMENT`. It may be a class.

    Raises HarnessError for the name of another entry, naming both.
    """
    ENCODERS.register(name, make)


def register_task(name: str, make: Callable[[], Task]) -> None:
    """Add a task: `make()` is called for `--task NAME`. Raises HarnessError as `register_encoder` does."""
    TASKS.register(name, make)


def register_translator(name: str, make: Callable[[str, str], Translator]) -> None:
    """Add a translator: `make(argument, device)` is called for `--translator NAME:ARGUMENT`. It may be a class.

    Raises HarnessError as `register_encoder` does.
    """
    TRANSLATORS.register(name, make)


def register_scorer(name: str, make: Callable[[str, ScoredRun], ScorerFactory]) -> None:
    """Add a scorer: `make(argument, run)` is called for `--scorer NAME:ARGUMENT` and returns the scorer of each retrieval.

    Raises HarnessError as `register_encoder` does.
    """
    SCORERS.register(name, make)


def register_objective(name: str, loss: Objective) -> None:
    """Add a distillation objective, `loss(student, teacher, config)`. Raises HarnessError as `register_encoder` does."""
    OBJECTIVES.register(name, loss)


def register_initializer(name: str, make: Callable[[str], Initializer]) -> None:
    """Add an initializer: `make(argument)` is called for `--init NAME:ARGUMENT`. It may be a class.

    Raises HarnessError as `register_encoder` does.
    """
    INITIALIZERS.register(name, make)


def register_chunker(name: str, make: Callable[[str], Chunker]) -> None:
    """Add a phrase chunker: `make(argument)` is called for `--chunker NAME:ARGUMENT` and returns `chunk(texts, language)`.

    Raises HarnessError as `register_encoder` does.
    """
    CHUNKERS.register(name, make)


def register_executor(name: str, make: Executor) -> None:
    """Add an executor: `make(choices, store, console)` is called for `--executor NAME`.

    Raises HarnessError as `register_encoder` does.
    """
    EXECUTORS.register(name, make)
