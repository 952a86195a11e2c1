"""Configurations: the name, default, bounds and description of every option, stated once.

The command line generates its options from these models, and the TOML files of studies are read with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.core.arms import DEFAULT_INIT, STEPLESS, InitializerName, spell_arm, spell_objective, split_arm
from harness.core.builtins import default_learning_rate
from harness.core.errors import HarnessError
from harness.core.option_use import without_unread

LARGEST_SEED = 2**63 - 1
"""Every generator of random numbers accepts seeds up to this."""


class Config(BaseModel):
    """Base of frozen configurations. Equal numbers are one value: defaults have their fields' types, and -0.0 becomes 0.0.

    group: the heading under which the command line shows the options.

    >>> DistillConfig(spelling=-0.0).model_dump_json() == DistillConfig().model_dump_json()
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    group: ClassVar[str] = ""

    @field_validator("*")
    @classmethod
    def _drop_sign_of_zero(cls, value: object) -> object:
        return value + 0.0 if isinstance(value, float) else value


class DistillConfig(Config):
    """How a text tower is distilled. Two arms of a comparison differ in `objective` alone."""

    group: ClassVar[str] = "Distillation"

    objective: str = Field(
        "kd-mse",
        description="Loss between student and teacher; `none` leaves the student untrained, `ridge` fits its projection alone, "
        "`ridge-english` fits that of a student of hf: on English text alone.",
    )
    init: InitializerName = Field(
        DEFAULT_INIT,
        description="Initialization of the student, see `list initializers`. `random`: the teacher's layers with random "
        "embeddings of new subwords. `keep-tokenizer`: the teacher's tokenizer and embeddings too. `ot-sentences`, "
        "`ot-teacher-tokens` and others: embeddings aligned with the English ones over the bitext. `scratch`: random weights. "
        "`hf:NAME-or-FOLDER`: a pretrained text model of Hugging Face.",
    )
    size: Literal["tiny", "small", "base"] | None = Field(
        None, description="Shape from scratch: 2 blocks x 128, 6 x 384 or 12 x 512; by default the teacher's."
    )
    pooling: Literal["mean", "last", "attention"] = Field(
        "mean", description="Sentence embedding: the mean of the token states, the last state, or a learned attention."
    )
    prefix: str | None = Field(
        None,
        description="Text in front of every sentence that a student of hf: reads; by default the one that the model was trained "
        'with, as "query: " for E5.',
    )
    pairs: int | None = Field(None, ge=2, description="Sentence pairs to use, a nested random subset; by default all.")
    unpaired: int = Field(
        0,
        ge=0,
        description="Monolingual sentences of each language, for ot-contexts, ridge-english and the student's subwords: from "
        "--text, or one side each of pairs that are not used.",
    )
    spelling: float = Field(
        0,
        ge=0,
        le=1000,
        description="Bonus of a subword's association with an English token that is spelled the same, as a multiple of the "
        "association; less for similar spellings. For the initializers that align a vocabulary.",
    )
    share: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Initializers that keep the teacher's tokens: share of the aligned mean in a token's embedding; the rest is "
        "its own.",
    )
    rescale: bool | None = Field(
        None,
        description="Move aligned embeddings to the usual distance from the mean of all; by default as the initializer's "
        "source does.",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the subset, the initial weights and the order of batches.")
    held_out: int = Field(
        0, ge=0, description="Sentence pairs held out for validation by translation retrieval; the best weights are stored."
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many of the 20 validations in a row without improvement."
    )
    tune: bool = Field(
        False,
        description="Choose the learning rate, and what the options tune-... list, by short trainings, validated on a tenth of "
        "the pairs.",
    )
    tune_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="Learning rates that --tune tries, comma-separated; by default four around the default one."
    )
    tune_vocabulary: tuple[Annotated[int, Field(ge=100, le=1_000_000)], ...] = Field(
        (), description="Values of --vocabulary that --tune tries, for initializers with new subwords."
    )
    tune_steps: tuple[Annotated[int, Field(ge=1, le=100_000_000)], ...] = Field(
        (), description="Values of --steps that --tune tries, in trainings of full length."
    )
    steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Optimizer steps; by default 10 passes over the pairs, at least 600."
    )
    batch: int = Field(64, ge=2, le=1_000_000, description="Sentence pairs in a step.")
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; by default 0.001, and 0.0001 for students of hf:."
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of the student's matrix products in training; weights and loss stay float32."
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts of a batch that pass through the student one after another, to save memory; the loss is the whole "
        "batch's.",
    )
    checkpointing: bool = Field(False, description="Recompute the student's blocks for their gradients, to save memory.")
    lora: int = Field(
        0,
        ge=0,
        le=1024,
        description="Rank of LoRA adapters that are trained in place of the student's blocks, by peft; 0 trains all weights.",
    )
    english_side: bool = Field(
        False,
        description="Train on the English sentences too: the student also reads them, and learns the teacher's states of them.",
    )
    vocabulary: int = Field(8000, ge=100, le=1_000_000, description="Largest number of subwords of the student's tokenizer.")
    solver: Literal["sinkhorn", "ipot", "exact"] = Field("sinkhorn", description="Transport solver of ot-token.")
    eps: float = Field(0.1, ge=1e-3, le=10, description="Entropic regularization of token transport, in units of cosine cost.")
    rho: float = Field(
        1.0, gt=0, le=1000, description="ot-unbalanced: price of a deviation from a marginal, in units of cosine cost."
    )
    sentence_weight: float = Field(
        1.0, ge=0, description="lambda: weight of kd-mse / mean ||z||^2 that is added to token transport."
    )
    entity_weight: float = Field(
        2.0, ge=1, le=1000, description="ot-entity: mass of a token in an entity mention; any other token has mass 1."
    )
    temperature: float = Field(0.05, ge=1e-3, le=10, description="tau of every softmax over the cosines of a batch.")
    diagonal: Literal["keep", "remove"] = Field(
        "keep", description="kd-relation, ot-batch: whether a sentence is its own candidate."
    )
    alpha: float = Field(0.5, ge=0, le=1, description="ot-batch: share of InfoNCE; the rest is the divergence from the plan.")
    batch_eps: float = Field(0.15, ge=0.01, le=10, description="ot-batch: entropic regularization of the teacher's plan.")
    batch_iterations: int = Field(5, ge=1, le=1000, description="ot-batch: iterations of the teacher's plan.")

    @property
    def peak_learning_rate(self) -> float:
        """The peak learning rate: the given one, else the initializer's default."""
        return default_learning_rate(self.init) if self.learning_rate is None else self.learning_rate

    def chosen(self) -> dict[str, Any]:
        """Return the options that are not at their defaults, in JSON's types.

        >>> DistillConfig(learning_rate=1e-3, pairs=9).chosen(), DistillConfig(init="hf:bert", learning_rate=1e-3).chosen()
        ({'pairs': 9}, {'init': 'hf:bert', 'learning_rate': 0.001})
        """
        options = self.model_dump(mode="json", exclude_defaults=True)
        if self.peak_learning_rate == default_learning_rate(self.init):
            options.pop("learning_rate", None)
        return options

    @property
    def arm(self) -> str:
        """The name of the arm in tables, records and pages."""
        return spell_arm(self.objective, self.init)

    def for_arm(self, arm: str) -> Self:
        """Return a copy for an arm, `OBJECTIVE` with this initializer or `OBJECTIVE@INITIALIZER`.

        Options that nothing then reads go back to their defaults, so that no tower is trained twice.
        Raises HarnessError as `split_arm` and `spell_objective`, and for an unknown initializer.

        >>> config = DistillConfig(eps=0.2)
        >>> config.for_arm("kd-mse").eps, config.for_arm("ot-token@keep-tokenizer").eps
        (0.1, 0.2)
        """
        objective, init = split_arm(arm, self.init)
        return without_unread(self.model_copy(update={"objective": spell_objective(objective), "init": init}))

    def steps_for(self, pairs: int) -> int:
        """Return the optimizer steps for a number of pairs; 0 for objectives without steps.

        >>> DistillConfig().steps_for(1000), DistillConfig().steps_for(27985), DistillConfig(steps=50).steps_for(1000)
        (600, 4372, 50)
        """
        if self.objective in STEPLESS:
            return 0
        return self.steps if self.steps is not None else max(600, 10 * pairs // self.batch)


class GroundingConfig(Config):
    """How regions of images are used: by a grounding task, or by the scorer `entities`."""

    group: ClassVar[str] = "Regions of images"

    rerank: int = Field(
        10, ge=0, description="Scorer entities: how many of the plain scorer's first candidates are reranked; 0 for all."
    )
    candidates: Literal["boxes", "proposals"] = Field(
        "boxes", description="Regions: the boxes that annotators drew, or a detector's proposals/<id>.json."
    )
    view: Literal["crop", "context", "blackout"] = Field(
        "crop",
        description="Picture of a region: cut out, cut out with a margin as wide as the region, or with the rest blacked out.",
    )


class ScoringConfig(Config):
    """How scorers compute the biases of candidates."""

    group: ClassVar[str] = "Scorer"

    score_temperature: float = Field(
        0.05, ge=1e-3, le=10, description="tau of sinkhorn, inverted-softmax and qb-norm, in units of cosine."
    )
    score_iterations: int = Field(10, ge=1, le=1000, description="Iterations of sinkhorn.")
    score_neighbours: int = Field(10, ge=1, le=1000, description="k of csls: nearest queries of a candidate.")


class DataConfig(Config):
    """What a run and a study read: the task, the languages, the data, the encoder, and the bitext to distill from."""

    lang: str = Field(
        description="Languages: codes or English names (de,Swahili), all, tier:0-2, script:Arab; see `list languages`."
    )
    task: str = Field("flickr30k", description="Task: see `list tasks`.")
    data: str | None = Field(
        None,
        description="Folder of Flickr30k, or a pack's folder or address; by default $FLICKR30K_ROOT, else the embedded sample.",
    )
    encoder: str = Field("sample", description="Image encoder and teacher: see `list encoders`.")
    split: str = Field("test", description="Images to measure on, see `list tasks`; make choices on val.")
    source: str | None = Field(
        None, description="Caption source, see `list sources`; by default the first that has the language."
    )
    bitext: Path | None = Field(
        None, description="Sentence pairs to distill from: .tsv, .tmx or Moses' x.en; by default the data folder's own."
    )
    text: Path | None = Field(
        None, description="Folder of monolingual text for --unpaired, en.txt and CODE.txt; by default pairs that are not used."
    )
    clean: bool | None = Field(None, description="Clean the bitext; by default only bitext of unstated origin, such as your own.")
    leakage: Literal["drop", "refuse"] = Field("drop", description="What to do with bitext of evaluation images.")
    chunker: str = Field(
        "simple",
        description="Finds phrases where there are no tags (--scorer entities, ot-entity); see `list chunkers`.",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _path_to_string(cls, data: object) -> object:
        return str(data) if isinstance(data, Path) else data


class RunConfig(DataConfig):
    """One run: languages measured on a task, with the towers that readers need for comparison."""

    arms: tuple[str, ...] = Field(
        ("kd-mse@keep-tokenizer", "ot-token", "kd-mse@ot-teacher-tokens"),
        description="Arms to distill and measure, OBJECTIVE or OBJECTIVE@INITIALIZER, comma-separated, the baseline first. An "
        "objective may be a sum (ot-token + 0.5*kd-mse); none: untrained. By default kd-mse@keep-tokenizer, ot-token and "
        "kd-mse@ot-teacher-tokens, or nothing if --tower is given.",
    )
    objectives: tuple[str, ...] = Field((), description="Short for --arms whose initializer is --init.")
    towers: tuple[str, ...] = Field((), description="Existing tower to measure: its folder, or the beginning of its digest.")
    measures: tuple[str, ...] = Field(
        (),
        description="Text-to-text retrieval: what to measure instead of the task's own; nDCG, MRR, AP, recall, P, success; "
        "@k for the first k.",
    )
    translations: str | None = Field(
        None, description="Measure translate-test: the captions in English, .tsv or xFlickr&CO's .jsonl; {lang} for the code."
    )
    translator: str | None = Field(
        None, description="Measure translate-test with a translator: see `list translators`; or FILE.py:NAME."
    )
    scorer: str = Field(
        "plain",
        description="Scorer to measure in addition to the plain cosine: see `list scorers`; sinkhorn, inverted-softmax, csls and "
        "qb-norm as NAME:banked or NAME:transductive (docs/scorers.md).",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    skip_broken: bool = Field(False, description="Leave out images that cannot be decoded; the record names them.")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="Bootstrap resamples.")
    distill: DistillConfig = DistillConfig()
    grounding: GroundingConfig = GroundingConfig()
    scoring: ScoringConfig = ScoringConfig()

    @model_validator(mode="after")
    def _name_initializers(self) -> Self:
        """Write every arm as OBJECTIVE@INITIALIZER, each once."""
        given = [field for field in ("arms", "objectives") if field in self.model_fields_set]
        if len(given) == 2:
            raise PydanticCustomError("arms", "--arms and --objectives both name what to distill: leave one of them out")
        arms = [split_arm(arm, self.distill.init) for arm in getattr(self, given[0] if given else "arms")]
        object.__setattr__(self, "arms", tuple(dict.fromkeys(f"{spell_objective(own)}@{init}" for own, init in arms)))
        return self

    @property
    def names_arms(self) -> bool:
        """Whether the arms were given, not the default ones."""
        return bool({"arms", "objectives"} & self.model_fields_set)

    @model_validator(mode="after")
    def _text_needs_unpaired(self) -> Self:
        if self.text is not None and not self.distill.unpaired:
            raise PydanticCustomError("text", "--text holds monolingual text: set with --unpaired how many sentences to read")
        return self


class ExecutorConfig(Config):
    """What measures the cells of a run, and how many at a time. No number depends on it."""

    group: ClassVar[str] = "Several workers"

    executor: str = Field("local", description="What measures the cells: local, this machine, or ray; see `list executors`.")
    workers: int = Field(1, ge=1, le=1_024, description="Cells at a time on a machine; each has its share of the cores.")
    address: str | None = Field(
        None, description="ray: address of a running cluster, as auto or HOST:6379; by default a new Ray on this machine."
    )
    gpus_per_cell: float | None = Field(
        None, ge=0, description="ray: GPUs of a cell, as 1 or 0.5; by default a machine's GPUs divided by --workers, at most one."
    )

    @property
    def sequential(self) -> bool:
        """Whether this process measures one cell after another."""
        return self.executor == "local" and self.workers == 1


def field_label(field: str) -> str:
    """Return a field's name with spaces, for messages and tables."""
    return field.replace("_", " ")


C = TypeVar("C", bound=Config)


def validated(kind: type[C], **choices: Any) -> C:
    """Return a validated configuration. Raises HarnessError naming the first option that is out of range."""
    try:
        return kind(**choices)
    except ValidationError as error:
        detail = error.errors()[0]
        # Errors between two options name both in their message.
        option = f"--{str(detail['loc'][0]).replace('_', '-')} {detail['input']}: " if detail["loc"] else ""
        raise HarnessError(f"{option}{detail['msg']}") from error
