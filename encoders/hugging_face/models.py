"""Models of the CLIP family in transformers' own form: CLIP, SigLIP, SigLIP 2, AltCLIP, Chinese-CLIP and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.core.data import Floats, Spans, TokenStates
from harness.core.errors import HarnessError
from harness.core.plugins import fingerprint
from harness.encoders.file_names import MODEL_CONFIG_FILE
from harness.encoders.hub import check_adapter, check_shards, hub_folder, quiet, require_transformers
from harness.encoders.text_preparation import FIXED_LENGTH, LOWER_CASE, missing_steps
from harness.encoders.weights import loading_problem
from harness.retrieval.text_spans import map_spans

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_IMAGES_A_BATCH, _TEXTS_A_BATCH = 32, 64
_FILES = ((MODEL_CONFIG_FILE, "model*.safetensors"), (MODEL_CONFIG_FILE, "pytorch_model*.bin"))


def hugging_face_encoder(argument: str, device: str) -> HuggingFace:
    """`hf:ORG/REPO` or `hf:FOLDER`: a CLIP-family model in transformers' form; needs the extra [hf].

    Raises HarnessError if transformers is not installed, or for a folder without a model.
    """
    return HuggingFace(*name_and_folder(argument), device)


def name_and_folder(argument: str) -> tuple[str, Callable[[], Path]]:
    """The name of the model of `hf:ARGUMENT`, and what finds its folder. Raises HarnessError as `hugging_face_encoder` does."""
    name, folder = f"hf:{argument}", Path(argument).expanduser()
    require_transformers(name)
    if not argument or (folder.is_dir() and not (folder / MODEL_CONFIG_FILE).is_file()):
        raise HarnessError(f"{name} holds no config.json: expected hf:ORG/REPO, or a folder that save_pretrained wrote")
    return name, lambda: model_folder(argument, name)


def model_folder(argument: str, name: str, choices: Sequence[Sequence[str]] = _FILES) -> Path:
    """A folder, or that of a repository of the hub, downloaded if need be. Raises HarnessError if it cannot be had whole."""
    folder = Path(argument).expanduser()
    if folder.is_dir():
        check_shards(folder)
        check_adapter(folder)
        return folder.resolve()
    if argument.count("/") > 1 or argument.startswith((".", "/", "~")):
        raise HarnessError(f"{name}: {argument} is neither a folder nor the name of a repository")
    found = hub_folder(argument, choices, name, instead=f"{name.partition(':')[0]}:FOLDER")
    check_adapter(found)
    return found


@dataclass(frozen=True)
class LoadedHuggingFace:
    """A model in memory, ready to encode. length: tokens that a text is cut to. lower: texts are lower-cased first."""

    model: Any
    tokenizer: Any
    prepare: Any
    length: int
    lower: bool

    def spell(self, text: str) -> str:
        """A text as the tokenizer is given it."""
        return text.lower() if self.lower else text


@dataclass(frozen=True)
class TextBatch:
    """Texts that went through the model together. rows: their places. real: (B, L), what is not padding. pooled: (B, d)."""

    rows: list[int]
    hidden: Tensor
    real: Tensor
    pooled: Tensor


class TransformersModel:
    """A model in transformers' form that nothing has been read of yet. semantics: what its fingerprint says of the code here."""

    semantics: ClassVar[str]

    def __init__(self, name: str, find: Callable[[], Path], device: str) -> None:
        self.name = name
        self._find = find
        self._device = device

    @cached_property
    def folder(self) -> Path:
        """The model's files, downloaded if need be. Raises HarnessError if they cannot be had."""
        return self._find()

    @cached_property
    def _fingerprint(self) -> str:
        # transformers now and then changes how it prepares its input: its version is part of what decides what comes out.
        return fingerprint(self.semantics, metadata.version("transformers"), *self.additions(), *fingerprinted_files(self.folder))

    def additions(self) -> tuple[str, ...]:
        """What the code here does to this model that it does not do to others."""
        return ()

    def fingerprint(self) -> str:
        """A digest of weights, configurations, preprocessing, tokenizer and of transformers' version."""
        return self._fingerprint

    @cached_property
    def device(self) -> str:
        """Where the model computes. Raises HarnessError if that device is not there."""
        from harness.runtime.device import resolve_device

        return resolve_device(self._device)


class HuggingFace(TransformersModel):
    """Both towers of a model. Nothing is loaded, and torch is not imported, until something is encoded."""

    semantics = "hugging face encoder 1, float32"

    def additions(self) -> tuple[str, ...]:
        """What is done to texts beside what the tokenizer does."""
        return missing_steps(self.folder)

    @cached_property
    def loaded(self) -> LoadedHuggingFace:
        """The model in memory. Raises HarnessError if it cannot be loaded whole."""
        with quiet():
            return load_hugging_face(self.name, self.folder, self.device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB pictures as (n, d), not normalised, prepared as the model's own processor does."""
        return np.concatenate([out.pooler_output.cpu().numpy() for _, out in self._looked_at(images)])

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Every patch's state, which is what the model's head makes of it alone, and the embeddings."""
        import torch

        tokens, lengths, pooled = [], [], []
        for batch, out in self._looked_at(images):
            with torch.inference_mode():
                states = patch_states(self.loaded.model, out.last_hidden_state)
            # SigLIP 2 may take pictures of any shape, and fills them up.
            real = batch.get("pixel_attention_mask", torch.ones(states.shape[:2], device=states.device)).bool()
            tokens.append(states[real].cpu().numpy())
            lengths.append(real.sum(1).cpu().numpy())
            pooled.append(out.pooler_output.cpu().numpy())
        return TokenStates(np.concatenate(tokens), np.concatenate(lengths), np.concatenate(pooled))

    def _looked_at(self, images: Sequence[Image.Image]) -> Iterator[tuple[Any, Any]]:
        """Run pictures through the image tower: what it is given, a batch at a time, and what it gives."""
        import torch

        loaded = self.loaded
        for start in range(0, len(images), _IMAGES_A_BATCH):
            batch = loaded.prepare(images=list(images[start : start + _IMAGES_A_BATCH]), return_tensors="pt").to(self.device)
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                out = loaded.model.get_image_features(**batch)
            yield batch, out

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as (n, d), not normalised. The language makes no difference."""
        pooled: dict[int, Any] = {}
        for batch in self._batches(texts):
            pooled |= zip(batch.rows, batch.pooled.cpu().numpy(), strict=True)
        return np.stack([pooled[row] for row in range(len(texts))])

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:  # noqa: ARG002
        """Every token's state, projected as the sentence's is, and the sentence embeddings."""
        model = self.loaded.model
        project = getattr(model, "text_projection", None) or model.text_model.head
        tokens: dict[int, Any] = {}
        pooled: dict[int, Any] = {}
        for batch in self._batches(texts):
            states = project(batch.hidden).cpu()
            tokens |= {row: states[place][batch.real[place]].numpy() for place, row in enumerate(batch.rows)}
            pooled |= zip(batch.rows, batch.pooled.cpu().numpy(), strict=True)
        order = range(len(texts))
        lengths = np.array([len(tokens[row]) for row in order], dtype=np.int64)
        return TokenStates(np.concatenate([tokens[row] for row in order]), lengths, np.stack([pooled[row] for row in order]))

    def locate_tokens(self, texts: Sequence[str], lang: str) -> list[Spans]:  # noqa: ARG002
        """Where each token stands in its text. Raises HarnessError for a tokenizer that does not tell."""
        loaded = self.loaded
        if not loaded.tokenizer.is_fast:
            raise HarnessError(f"{self.name}: a {type(loaded.tokenizer).__name__} does not tell where its tokens stand in a text")
        spelled = [loaded.spell(text) for text in texts]
        found = loaded.tokenizer(spelled, truncation=True, max_length=loaded.length, return_offsets_mapping=True)
        return [map_spans(spans, *pair) for spans, *pair in zip(found["offset_mapping"], spelled, texts, strict=True)]

    def _batches(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """Run the texts through the text tower, those of like length together."""
        import torch

        loaded = self.loaded
        fixed = loaded.model.config.model_type in FIXED_LENGTH
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _TEXTS_A_BATCH):
            rows = order[start : start + _TEXTS_A_BATCH]
            ids = loaded.tokenizer(
                [loaded.spell(texts[row]) for row in rows],
                padding="max_length" if fixed else "longest",
                truncation=True,
                max_length=loaded.length,
                return_attention_mask=True,
                return_tensors="pt",
            )
            mask = None if fixed else ids["attention_mask"].to(self.device)
            with torch.inference_mode():
                out = loaded.model.get_text_features(input_ids=ids["input_ids"].to(self.device), attention_mask=mask)
                yield TextBatch(rows, out.last_hidden_state, ids["attention_mask"].bool(), out.pooler_output)


def fingerprinted_files(folder: Path) -> list[Path]:
    """The files of a folder that decide what its model computes."""
    found = {file for pattern in ("*.json", "*.txt", "*.model", "model*.safetensors") for file in folder.glob(pattern)}
    # Where both forms of the weights lie side by side, transformers reads the first.
    if not any(file.suffix == ".safetensors" for file in found):
        found |= set(folder.glob("pytorch_model*.bin"))
    found |= set(folder.glob("adapter_model*"))
    return sorted(found)


@contextmanager
def one_line_loading_errors(name: str, folder: Path) -> Iterator[None]:
    """Raise HarnessError for whatever goes wrong while transformers loads a model from a folder."""
    try:
        yield
    except ImportError as error:
        needed = " ".join(str(error).split())[:100]
        raise HarnessError(
            f"{name}: transformers needs more to load it: pip install 'flickr30k-harness[hf]' ({needed})"
        ) from error
    except Exception as error:  # of many libraries: transformers, tokenizers, sentencepiece, safetensors, torch
        weights = next((file for file in fingerprinted_files(folder) if file.suffix in (".safetensors", ".bin")), folder)
        raise HarnessError(f"{name}: transformers cannot load {folder}: {loading_problem(error, weights)}") from error


def check_no_missing_weights(name: str, folder: Path, model: Any, report: Mapping[str, Any]) -> None:
    """Raise HarnessError if transformers reports that it made up weights which the folder lacks."""
    if missing := sorted(report["missing_keys"]):
        raise HarnessError(f"{name}: {folder} lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}")


def load_hugging_face(name: str, folder: Path, device: str) -> LoadedHuggingFace:
    """Build the model with its weights. Raises HarnessError if some are missing: transformers would make them up."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    with one_line_loading_errors(name, folder):
        model, report = AutoModel.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        prepare = AutoImageProcessor.from_pretrained(str(folder))  # type: ignore[no-untyped-call]
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise HarnessError(f"{name} is a {type(model).__name__}, which has not both towers: expected a model such as CLIPModel")
    check_no_missing_weights(name, folder, model, report)
    if tokenizer.pad_token_id is None:
        raise HarnessError(
            f"{name}: the tokenizer in {folder} has no pad_token, which texts are filled up with: name the model's own"
        )
    # No model that reads pictures was trained on texts padded on the left, which would move their positions.
    tokenizer.padding_side = "right"
    lower = LOWER_CASE in missing_steps(folder)
    return LoadedHuggingFace(model.eval().to(device), tokenizer, prepare, text_length(model, tokenizer), lower)


def patch_states(model: Any, hidden: Tensor) -> Tensor:
    """Hidden states (B, p, width) of an image tower's last layer as patch states (B, p, d), without its class token."""
    vision = model.vision_model
    if hasattr(model, "visual_projection"):
        projected: Tensor = model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
        return projected
    # SigLIP's head attends over patches: it is shown one at a time.
    attended: Tensor = vision.head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])
    return attended


def text_length(model: Any, tokenizer: Any) -> int:
    """How many tokens of a text the model can read."""
    text = model.config.text_config
    if model.config.model_type in FIXED_LENGTH:
        return int(text.max_position_embeddings)
    # RoBERTa's positions begin after its padding's.
    reserved = text.pad_token_id + 1 if hasattr(model.text_model, "roberta") else 0
    return int(min(tokenizer.model_max_length, text.max_position_embeddings - reserved))
