"""Initializer of students from a text model of the Hugging Face hub, or of a folder in the same format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.digests import digest_file, digest_strings
from harness.core.errors import HarnessError
from harness.encoders.file_names import MODEL_CONFIG_FILE, PICKLED_FILE, PROMPTS_FILE, SAFETENSORS_FILE, TOKENIZER_FILE
from harness.encoders.hub import check_adapter, hub_folder, quiet, require_transformers
from harness.encoders.hugging_face.models import check_no_missing_weights
from harness.encoders.hugging_face.student_tokenizers import add_prefix, default_prefix, frame_with_language
from harness.encoders.text_preparation import read_json_or_empty
from harness.encoders.weights import loading_problem, loads_in_half

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Generator

    from harness.core.config import DistillConfig
    from harness.core.data import Bitext
    from harness.core.protocols import TextEncoder
    from harness.distill.data.bitext import MonolingualText
    from harness.distill.initializers.interface import Student
    from harness.distill.model.tower import DonatedLayers, TextTower

_CONTEXT_LENGTH = 77
_WEIGHTS_FILES = (SAFETENSORS_FILE, PICKLED_FILE)
# Models that have a pooling layer by default, those that start every text with a language mark, and all that students can be.
_POOLED = ("bert", "roberta", "xlm-roberta", "camembert")
_MARKED = ("m2m_100",)
_FAMILIES = (*_POOLED, *_MARKED, "electra", "distilbert", "bart")


class HuggingFaceInitializer:
    """The initializer `hf:NAME-or-FOLDER`: layers and subwords of a text model, or of the encoder of a translation model.

    It reads `config.json`, `model.safetensors` or `pytorch_model.bin`, and `tokenizer.json` from a folder or from the hub.
    """

    def __init__(self, argument: str) -> None:
        if not argument:
            raise HarnessError("--init hf names no model: expected --init hf:NAME-or-FOLDER")
        self.name = argument

    @cached_property
    def folder(self) -> Path:
        """The folder with the model's files.

        Raises HarnessError if a file is missing or cannot be downloaded, and for an architecture that students do not have.
        """
        require_transformers(self.name)
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            choices = [(MODEL_CONFIG_FILE, weights, TOKENIZER_FILE) for weights in _WEIGHTS_FILES]
            folder = hub_folder(self.name, choices, f"hf:{self.name}", beside=(PROMPTS_FILE,), instead="--init hf:FOLDER")
        files = (MODEL_CONFIG_FILE, weights_file(folder).name, TOKENIZER_FILE)
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise HarnessError(f"{folder} has no {' and no '.join(missing)}: a student's initializer reads {', '.join(files)}")
        check_adapter(folder)
        check_family(f"hf:{self.name}", folder)
        return folder

    def fingerprint(self) -> str:
        """Return a digest of configuration, weights, tokenizer, prefix, and a conversion that transformers would not make."""
        folder = self.folder
        files = [digest_file(file) for file in (folder / MODEL_CONFIG_FILE, weights_file(folder), folder / TOKENIZER_FILE)]
        steps = [*(["float32"] if loads_in_half(folder) else []), *([self.prefix] if self.prefix else [])]
        return digest_strings([*files, *steps])

    @cached_property
    def marks_language(self) -> bool:
        """Whether texts begin with the mark of their language."""
        return model_family(self.folder) in _MARKED

    @cached_property
    def prefix(self) -> str:
        """The prefix that the model was trained with in front of every text, or an empty string."""
        return default_prefix(self.name, self.folder)

    def student(self, teacher: TextEncoder, config: DistillConfig, bitext: Bitext, _: MonolingualText) -> Student:
        """Return the model with a random projection into the teacher's joint space, and its own tokenizer with the prefix."""
        import torch

        from harness.distill.initializers.interface import Student
        from harness.distill.model.tower import joint_dim

        generator = torch.Generator().manual_seed(config.seed)
        tower = with_projection(self.donate_layers(), joint_dim(teacher), config, generator)
        return Student(tower, self.student_tokenizer(config, bitext.lang))

    def student_tokenizer(self, config: DistillConfig, lang: str) -> Tokenizer:
        """Return the model's own tokenizer, with the mark of a language and the prefix in its framing.

        Raises HarnessError as `frame_with_language` and `add_prefix` do.
        """
        tokenizer = self.own_tokenizer()
        if self.marks_language:
            frame_with_language(tokenizer, f"hf:{self.name}", lang)
        add_prefix(tokenizer, self.prefix if config.prefix is None else config.prefix)
        return tokenizer

    def own_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer, framing included. Raises HarnessError if its file is not a tokenizer."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER_FILE))
        except Exception as error:  # tokenizers raises a bare Exception
            raise HarnessError(f"{self.folder / TOKENIZER_FILE} is no tokenizer: {' '.join(str(error).split())[:200]}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def donate_layers(self) -> DonatedLayers:
        """Return a copy of the model's layers, with the identity as projection.

        Raises HarnessError if the architecture has no counterpart in `TowerConfig`, or if weights are missing.
        """
        import torch
        from transformers import AutoModel
        from transformers.utils import logging

        from harness.distill.model.tower import DonatedLayers
        from harness.encoders.hugging_face.student_layers import from_text_model
        from harness.encoders.open_clip.donated_layers import copy_weights

        options = {"add_pooling_layer": False} if model_family(self.folder) in _POOLED else {}
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            with quiet():
                model, report = AutoModel.from_pretrained(
                    self.folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
                )
        except Exception as error:  # raised by transformers, safetensors or torch
            problem = loading_problem(error, weights_file(self.folder))
            raise HarnessError(f"{self.folder} cannot be loaded: {problem}") from error
        check_no_missing_weights(f"hf:{self.name}", self.folder, model, report)
        config, weights = from_text_model(model, _CONTEXT_LENGTH)
        tokenizer = self.own_tokenizer()

        def tokenize(texts: Sequence[str]) -> list[list[int]]:
            return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

        return DonatedLayers(config, copy_weights(weights), None, None, tokenize, tokenizer)


def weights_file(folder: Path) -> Path:
    """Return a model's file of weights: the first of the known names that exists, else the first."""
    found = [folder / name for name in _WEIGHTS_FILES if (folder / name).is_file()]
    return found[0] if found else folder / _WEIGHTS_FILES[0]


def model_family(folder: Path) -> object:
    """Return the architecture that a model's `config.json` names, or None."""
    return read_json_or_empty(folder / MODEL_CONFIG_FILE).get("model_type")


def check_family(name: str, folder: Path) -> None:
    """Raise HarnessError for an architecture whose layers students do not have. Without a name, loading the model decides."""
    family = model_family(folder)
    if family is not None and family not in _FAMILIES:
        raise HarnessError(
            f"{name} has the architecture {family}, whose layers students do not have: name a BERT, RoBERTa, XLM-RoBERTa, "
            "CamemBERT, ELECTRA, DistilBERT, BART, M2M-100 or NLLB, or use --init scratch"
        )


def with_projection(lent: DonatedLayers, dim: int, config: DistillConfig, generator: Generator) -> TextTower:
    """Return a tower with a model's layers and a random projection (dim, width) of standard deviation 1 / sqrt(width)."""
    import torch

    from harness.distill.model.tower import TextTower

    student = TextTower(lent.config.model_copy(update={"pooling": config.pooling, "joint_dim": dim}))
    drawn = torch.randn(dim, lent.config.width, generator=generator) * lent.config.width**-0.5
    student.load_state_dict(student.state_dict() | lent.weights | {"projection.weight": drawn}, strict=True)
    return student
