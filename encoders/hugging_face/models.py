"""Models of the CLIP family in transformers' format, such as CLIP, SigLIP, SigLIP 2, AltCLIP and Chinese-CLIP."""

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
    """`hf:ORG/REPO` or `hf:FOLDER`: a CLIP-family model in transformers' format; needs the extra [hf].

    Raises HarnessError if transformers is not installed, or if the folder has no model.
    """
    return HuggingFace(*name_and_folder(argument), device)


def name_and_folder(argument: str) -> tuple[str, Callable[[], Path]]:
    """Return the name of the model `hf:ARGUMENT` and a function that finds its folder.

    Raises HarnessError as `hugging_face_encoder` does.
    """
    name, folder = f"hf:{argument}", Path(argument).expanduser()
    require_transformers(name)
    if not argument or (folder.is_dir() and not (folder / MODEL_CONFIG_FILE).is_file()):
        raise HarnessError(f"{name} holds no config.json: expected hf:ORG/REPO, or a folder that save_pretrained wrote")
    return name, lambda: model_folder(argument, name)


def model_folder(argument: str, name: str, choices: Sequence[Sequence[str]] = _FILES) -> Path:
    """Return a model's folder, or that of a hub repository, downloaded if necessary. Raises HarnessError if it is incomplete."""
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
    """A model in memory, with its tokenizer and image processor.

    length: maximum number of tokens; longer texts are truncated. lower: whether texts are lower-cased before tokenization.
    """

    model: Any
    tokenizer: Any
    prepare: Any
    length: int
    lower: bool

    def spell(self, text: str) -> str:
        """Return a text as the input of the tokenizer."""
        return text.lower() if self.lower else text


@dataclass(frozen=True)
class TextBatch:
    """A batch of encoded texts.

    rows: positions of the texts in the input. hidden: (B, L, width). real: (B, L), false for padding. pooled: (B, d).
    """

    rows: list[int]
    hidden: Tensor
    real: Tensor
    pooled: Tensor


class TransformersModel:
    """A model in transformers' format, loaded on first use. semantics: the version of this code in the fingerprint."""

    semantics: ClassVar[str]

    def __init__(self, name: str, find: Callable[[], Path], device: str) -> None:
        self.name = name
        self._find = find
        self._device = device

    @cached_property
    def folder(self) -> Path:
        """The folder with the model's files, downloaded if necessary. Raises HarnessError if they are not available."""
        return self._find()

    @cached_property
    def _fingerprint(self) -> str:
        # Some versions of transformers change the preprocessing, so the version is part of the fingerprint.
        return fingerprint(self.semantics, metadata.version("transformers"), *self.additions(), *fingerprinted_files(self.folder))

    def additions(self) -> tuple[str, ...]:
        """Return the steps that this code applies to this model and not to every model."""
        return ()

    def fingerprint(self) -> str:
        """Return a digest of weights, configurations, preprocessing, tokenizer and the version of transformers."""
        return self._fingerprint

    @cached_property
    def device(self) -> str:
        """The device on which the model runs. Raises HarnessError if the device is not available."""
        from harness.runtime.device import resolve_device

        return resolve_device(self._device)


class HuggingFace(TransformersModel):
    """Both towers of a model. The first encoding loads the model and imports torch."""

    semantics = "hugging face encoder 1, float32"

    def additions(self) -> tuple[str, ...]:
        """Return the steps that texts need in addition to the tokenizer."""
        return missing_steps(self.folder)

    @cached_property
    def loaded(self) -> LoadedHuggingFace:
        """The model in memory. Raises HarnessError if it cannot be loaded completely."""
        with quiet():
            return load_hugging_face(self.name, self.folder, self.device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB images as (n, d), not normalised, with the model's own image processor."""
        return np.concatenate([out.pooler_output.cpu().numpy() for _, out in self._looked_at(images)])

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Return every patch's state, which is the output of the model's head for that patch alone, and the embeddings."""
        import torch

        tokens, lengths, pooled = [], [], []
        for batch, out in self._looked_at(images):
            with torch.inference_mode():
                states = patch_states(self.loaded.model, out.last_hidden_state)
            # SigLIP 2 accepts images of any shape and pads their patches.
            real = batch.get("pixel_attention_mask", torch.ones(states.shape[:2], device=states.device)).bool()
            tokens.append(states[real].cpu().numpy())
            lengths.append(real.sum(1).cpu().numpy())
            pooled.append(out.pooler_output.cpu().numpy())
        return TokenStates(np.concatenate(tokens), np.concatenate(lengths), np.concatenate(pooled))

    def _looked_at(self, images: Sequence[Image.Image]) -> Iterator[tuple[Any, Any]]:
        """Yield each batch of preprocessed images with the output of the image tower."""
        import torch

        loaded = self.loaded
        for start in range(0, len(images), _IMAGES_A_BATCH):
            batch = loaded.prepare(images=list(images[start : start + _IMAGES_A_BATCH]), return_tensors="pt").to(self.device)
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                out = loaded.model.get_image_features(**batch)
            yield batch, out

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as (n, d), not normalised. The language has no effect."""
        pooled: dict[int, Any] = {}
        for batch in self._batches(texts):
            pooled |= zip(batch.rows, batch.pooled.cpu().numpy(), strict=True)
        return np.stack([pooled[row] for row in range(len(texts))])

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:  # noqa: ARG002
        """Return every token's state, with the projection of the sentence embedding, and the sentence embeddings."""
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
        """Return the character span of each token in its text. Raises HarnessError if the tokenizer provides no offsets."""
        loaded = self.loaded
        if not loaded.tokenizer.is_fast:
            raise HarnessError(f"{self.name}: a {type(loaded.tokenizer).__name__} does not provide the offsets of its tokens")
        spelled = [loaded.spell(text) for text in texts]
        found = loaded.tokenizer(spelled, truncation=True, max_length=loaded.length, return_offsets_mapping=True)
        return [map_spans(spans, *pair) for spans, *pair in zip(found["offset_mapping"], spelled, texts, strict=True)]

    def _batches(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """Encode the texts in batches of similar length."""
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
    """Return the files of a folder that determine the results of its model."""
    found = {file for pattern in ("*.json", "*.txt", "*.model", "model*.safetensors") for file in folder.glob(pattern)}
    # If the folder has both formats of the weights, transformers reads the first.
    if not any(file.suffix == ".safetensors" for file in found):
        found |= set(folder.glob("pytorch_model*.bin"))
    found |= set(folder.glob("adapter_model*"))
    return sorted(found)


@contextmanager
def one_line_loading_errors(name: str, folder: Path) -> Iterator[None]:
    """Convert any error while transformers loads a model from a folder to HarnessError."""
    try:
        yield
    except ImportError as error:
        needed = " ".join(str(error).split())[:100]
        raise HarnessError(
            f"{name}: transformers needs more to load it: pip install 'flickr30k-harness[hf]' ({needed})"
        ) from error
    except Exception as error:  # raised by transformers, tokenizers, sentencepiece, safetensors or torch
        weights = next((file for file in fingerprinted_files(folder) if file.suffix in (".safetensors", ".bin")), folder)
        raise HarnessError(f"{name}: transformers cannot load {folder}: {loading_problem(error, weights)}") from error


def check_no_missing_weights(name: str, folder: Path, model: Any, report: Mapping[str, Any]) -> None:
    """Raise HarnessError if transformers reports weights that the folder lacks, which it initializes at random."""
    if missing := sorted(report["missing_keys"]):
        raise HarnessError(f"{name}: {folder} lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}")


def load_hugging_face(name: str, folder: Path, device: str) -> LoadedHuggingFace:
    """Build the model and load its weights. Raises HarnessError for missing weights, which transformers would randomize."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    with one_line_loading_errors(name, folder):
        model, report = AutoModel.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        prepare = AutoImageProcessor.from_pretrained(str(folder))  # type: ignore[no-untyped-call]
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise HarnessError(
            f"{name} is a {type(model).__name__}, which lacks an image or a text tower: expected a model such as CLIPModel"
        )
    check_no_missing_weights(name, folder, model, report)
    if tokenizer.pad_token_id is None:
        raise HarnessError(f"{name}: the tokenizer in {folder} has no pad_token for padding texts: add the model's own")
    # Padding on the left would shift the positions of tokens, and no model of images was trained with it.
    tokenizer.padding_side = "right"
    lower = LOWER_CASE in missing_steps(folder)
    return LoadedHuggingFace(model.eval().to(device), tokenizer, prepare, text_length(model, tokenizer), lower)


def patch_states(model: Any, hidden: Tensor) -> Tensor:
    """Return patch states (B, p, d) from the hidden states of an image tower's last layer, without the class token."""
    vision = model.vision_model
    if hasattr(model, "visual_projection"):
        projected: Tensor = model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
        return projected
    # SigLIP's head attends over patches, so it receives one patch at a time.
    attended: Tensor = vision.head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])
    return attended


def text_length(model: Any, tokenizer: Any) -> int:
    """Return the maximum number of tokens in a text that the model can process."""
    text = model.config.text_config
    if model.config.model_type in FIXED_LENGTH:
        return int(text.max_position_embeddings)
    # RoBERTa's positions start after the pad id.
    reserved = text.pad_token_id + 1 if hasattr(model.text_model, "roberta") else 0
    return int(min(tokenizer.model_max_length, text.max_position_embeddings - reserved))
