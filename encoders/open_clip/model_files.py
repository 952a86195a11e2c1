"""Where the files of an open_clip model lie: in a folder, in a repository of the Hugging Face hub, or behind a tag of open_clip.

Nothing here imports torch, but for tags, which open_clip itself has to be asked for.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.core.digests import digest_file, digest_json, digest_strings
from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.encoders.hub import TEXT_FILES, WEIGHT_FILES, check_adapter, hub_folder, not_here, quiet
from harness.encoders.text_preparation import RIGHT, pads_right, read_json

# Raised when the same files come to give other embeddings: by a change here, in tokenization.py or in text_towers.py.
SEMANTICS = "open_clip encoder 2, float32, channels last"

CONFIG = "open_clip_config.json"
# The order in which open_clip itself prefers them.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")
TEXT_MODELS = frozenset({"bert", "roberta", "xlm-roberta", "mt5", "m2m_100"})
PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
CLIP_VOCABULARY = 49_408
# Behind a checkpoint file: its weights were trained with GELU, though published weights of the architecture were with QuickGELU.
GELU = "@gelu"
HALF = ("float16", "bfloat16")
MOST_HEADER = 100_000_000  # bytes, as safetensors itself allows
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{old}', 'cpu', weights_only=False); "
    "w = w.get('state_dict', w) if isinstance(w, dict) else w.state_dict(); "
    "s.save_file({{k: v.contiguous().clone() for k, v in w.items()}}, '{new}', {{'format': 'pt'}})\""
)


@dataclass(frozen=True)
class ModelFiles:
    """Everything on disk that decides what a model computes.

    model: what open_clip is asked for: a built-in architecture, or `local-dir:` and a folder.
    config: open_clip's `model_cfg`; preprocessing: its `preprocess_cfg`.
    tower: folder with the configuration of a Hugging Face text tower; None for open_clip's own transformer.
    tokenizer: folder of a Hugging Face tokenizer, or a `tokenizer.json`; None for CLIP's own tokenizer.
    """

    model: str
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    weights: Path
    tower: Path | None
    tokenizer: Path | None

    @property
    def text_config(self) -> Mapping[str, Any]:
        """open_clip's `text_cfg`."""
        text: Mapping[str, Any] = self.config["text_cfg"]
        return text

    def corrections(self) -> list[str]:
        """What is computed otherwise than open_clip does: a text tower in half precision, a tokenizer that pads on the left."""
        half = self.tower is not None and says_half(read_json(self.tower / "config.json"))
        place = self.tokenizer if self.tokenizer is not None and self.tokenizer.is_dir() else None
        left = place is not None and not pads_right({}, read_json(place / "tokenizer_config.json"))
        return [name for name, holds in (("float32 text tower", half), (RIGHT, left)) if holds]

    def digest(self) -> str:
        """A digest of contents, whatever the names of folders."""
        parts = [SEMANTICS, digest_json(self.config), digest_json(self.preprocessing), digest_file(self.weights)]
        parts += self.corrections()
        for place in (self.tower, self.tokenizer):
            for file in text_files(place):
                parts += [file.name, digest_file(file)]
        return digest_strings(parts)


def text_files(place: Path | None) -> list[Path]:
    """The files that tokenizer or text tower may be made from."""
    if place is None:
        return []
    if place.is_file():
        return [place]
    return sorted({file for pattern in TEXT_FILES for file in place.glob(pattern) if file.name != CONFIG})


def in_folder(folder: Path) -> ModelFiles:
    """The model of a folder in open_clip's directory form.

    Raises HarnessError if configuration, weights or tokenizer are missing, or if transformers is needed and not installed.
    """
    if not folder.is_dir():
        raise HarnessError(f"{folder} is no folder; expected one that holds {CONFIG} and the weights")
    config = read_config(folder / CONFIG)
    check_preprocessing(config, folder / CONFIG)
    check_adapter(folder)
    text = config["model_cfg"]["text_cfg"]
    return ModelFiles(
        model=f"local-dir:{folder}",
        config=config["model_cfg"],
        preprocessing=config.get("preprocess_cfg") or {},
        weights=find_weights(folder),
        tower=find_tower(text, folder),
        tokenizer=find_tokenizer(text, folder),
    )


def in_hub(repo: str) -> ModelFiles:
    """The model of a hub repository, downloaded if it is not in the cache. Raises HarnessError if it cannot be had."""
    return in_folder(hub_folder(repo, [(CONFIG, weights) for weights in HUB_WEIGHTS], f"hf-hub:{repo}"))


def behind_tag(arch: str, pretrained: str) -> ModelFiles:
    """The model of a built-in architecture with a tag's weights, downloaded if need be, or with those of a checkpoint file.

    Raises HarnessError if weights or tokenizer are not here and cannot be downloaded.
    """
    import open_clip

    tag = open_clip.get_pretrained_cfg(arch, pretrained)
    config = open_clip.get_model_config(arch)
    return ModelFiles(
        model=arch,
        config=config,
        preprocessing={key: tag[key] for key in PREPROCESSING if key in tag} if tag else usual_preprocessing(arch),
        weights=tag_weights(tag, f"open_clip:{arch}/{pretrained}") if tag else checkpoint_file(pretrained).resolve(),
        tower=find_tower(config["text_cfg"], None),
        tokenizer=find_tokenizer(config["text_cfg"], None),
    )


def check_tag(arch: str, pretrained: str) -> str:
    """The canonical form of `pretrained`. Raises HarnessError, with the names that would do, if open_clip cannot serve it."""
    import open_clip

    if arch not in open_clip.list_models():
        raise HarnessError(f"open_clip has no architecture {arch!r}: {nearest(arch, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not pretrained:
        known = f"tags of {arch} are {', '.join(sorted(tags))}" if tags else f"{arch} has no tag, so name a checkpoint file"
        raise HarnessError(f"open_clip:{arch} names no weights; write open_clip:{arch}/PRETRAINED: {known}")
    tag = open_clip.get_pretrained_cfg(arch, pretrained)
    if tag:
        check_activation(arch, pretrained, bool(tag.get("quick_gelu")))
        canonical: str = next(name for name in tags if open_clip.get_pretrained_cfg(arch, name) is tag)
        return canonical
    if not checkpoint_file(pretrained).is_file():
        known = nearest(pretrained, tags) if tags else f"{arch} has no tags"
        raise HarnessError(f"{pretrained!r} is neither a tag of {arch} nor a checkpoint file: {known}")
    check_file_activation(arch, pretrained)
    return pretrained


def checkpoint_file(pretrained: str) -> Path:
    """The file of a checkpoint, without what is said of its activation."""
    return Path(pretrained if Path(pretrained).is_file() else pretrained.removesuffix(GELU))


def check_file_activation(arch: str, pretrained: str) -> None:
    """Raise HarnessError for a checkpoint file that may have been trained with another GELU than its architecture computes.

    The file does not say. OpenAI's weights and their like are published for architectures of both names.
    """
    import open_clip

    file, meant = checkpoint_file(pretrained), pretrained.endswith(GELU) and not Path(pretrained).is_file()
    if open_clip.get_model_config(arch).get("quick_gelu"):
        if meant:
            plain = arch.removesuffix("-quickgelu")
            raise HarnessError(f"{arch} computes QuickGELU: for weights trained with GELU use open_clip:{plain}/{pretrained}")
        return
    tags = open_clip.list_pretrained_tags_by_model(arch)
    quick = [tag for tag in tags if open_clip.get_pretrained_cfg(arch, tag).get("quick_gelu")]
    twin = f"{arch}-quickgelu"
    if quick and not meant and twin in open_clip.list_models():
        raise HarnessError(
            f"{file} does not say whether it was trained with QuickGELU, as {', '.join(quick)} of {arch} were: "
            f"use open_clip:{twin}/{file} if it was, open_clip:{arch}/{file}{GELU} if it was trained with GELU"
        )


def check_activation(arch: str, tag: str, quick: bool) -> None:
    """Raise HarnessError if a tag was trained with another GELU than its architecture has: open_clip would only warn."""
    import open_clip

    if bool(open_clip.get_model_config(arch).get("quick_gelu")) == quick:
        return
    twin = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
    # Where there is no twin, the tag is the architecture's only one and lacks the mark by an oversight of open_clip's.
    if twin != arch and twin in open_clip.list_models():
        kind = "QuickGELU" if quick else "GELU"
        raise HarnessError(f"{tag} of {arch} was trained with {kind}, which {arch} does not compute; use open_clip:{twin}/{tag}")


def usual_preprocessing(arch: str) -> Mapping[str, Any]:
    """The preprocessing that all tags of an architecture share. Raises HarnessError if they differ.

    A bare checkpoint file does not say how its images were prepared, and open_clip would take OpenAI's way for any of them.
    """
    import open_clip

    configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    ways = [{key: config[key] for key in PREPROCESSING if key in config} for config in configs]
    if any(way != ways[0] for way in ways):
        raise HarnessError(
            f"models of {arch} differ in how images are prepared, and a checkpoint file does not say it: "
            f"put it into a folder with a {CONFIG} and use local-dir:"
        )
    return ways[0] if ways else {}


def check_preprocessing(config: Mapping[str, Any], path: Path) -> None:
    """Raise HarnessError where open_clip would prepare a SigLIP model's pictures as OpenAI's CLIP does, for want of a word.

    Their mean and deviation are 0.5, and they are squashed, not cropped.
    """
    model, given = config["model_cfg"], config.get("preprocess_cfg") or {}
    missing = [key for key in ("mean", "std", "interpolation", "resize_mode") if not given.get(key)]
    if missing and ("init_logit_bias" in model or "siglip" in str(model["vision_cfg"].get("timm_model_name"))):
        raise HarnessError(
            f"{path}: preprocess_cfg lacks {', '.join(missing)}, and open_clip would prepare pictures as OpenAI's CLIP does: "
            "add what this SigLIP model was trained with"
        )


def tag_weights(tag: Mapping[str, Any], name: str) -> Path:
    """The weights of a tag, from the cache or else the network. Raises HarnessError if they cannot be had."""
    import open_clip

    repo, _, file = str(tag["hf_hub"]).rpartition("/")
    if repo:
        choices = (f"{Path(file).stem}.safetensors", file) if file else HUB_WEIGHTS
        folder = hub_folder(repo, [(choice,) for choice in choices], name, beside=())
        return next(folder / choice for choice in choices if (folder / choice).is_file())
    try:
        with quiet():
            return Path(open_clip.download_pretrained(tag))
    except Exception as error:
        raise not_here(name, str(tag["url"]), error) from error


def says_half(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration asks transformers to compute in half precision."""
    return dtype_of(config) in HALF


def loads_in_half(folder: Path) -> bool:
    """Whether transformers, unless told otherwise, computes a folder's model in half precision: as configured, else as saved."""
    config = read_json(folder / "config.json")
    if dtype_of(config):
        return says_half(config)
    weights = sorted(file for pattern in ("model*.safetensors", "pytorch_model*.bin") for file in folder.glob(pattern))
    return any(map(saved_in_half, weights))


def dtype_of(config: Mapping[str, Any]) -> str:
    """The type of numbers that a model's configuration names; nothing if it names none."""
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def saved_in_half(weights: Path) -> bool:
    """Whether a file of weights holds any in half precision. Only its table of contents is read; loading tells what is broken."""
    try:
        if weights.suffix == ".safetensors":
            with weights.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = from_json(file.read(min(size, MOST_HEADER)))
            return any(entry.get("dtype") in ("F16", "BF16") for entry in header.values())
        with zipfile.ZipFile(weights) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):
        return False
    return any(kind in content for content in pickles for kind in (b"HalfStorage", b"BFloat16Storage"))


@contextmanager
def in_float32(tower: Path) -> Iterator[Path]:
    """A folder with the configuration of a text tower that says nothing of half precision; the same where it never did."""
    config = read_json(tower / "config.json")
    if not says_half(config):
        yield tower
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (Path(folder) / "config.json").write_text(json.dumps(kept), encoding="utf-8")
        yield Path(folder)


def reason(error: BaseException, weights: Path) -> str:
    """Why weights cannot be loaded, on one line; of a pickle that would run code, how to convert it.

    torch's own message tells its readers to run that code.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, pickle.UnpicklingError):
            return (
                "it holds more than tensors, and reading it would run code that it brings. Where you trust it, convert it "
                f"once and use the result: {CONVERT.format(old=weights, new=weights.with_name('model.safetensors'))}"
            )
        seen = seen.__cause__ or seen.__context__
    return " ".join(str(error).split())[:300]


def read_config(path: Path) -> dict[str, Any]:
    """An `open_clip_config.json`. Raises HarnessError if it is not one."""
    if not path.is_file():
        raise HarnessError(f"{path} is missing; a folder in open_clip's directory form holds it beside the weights")
    try:
        config: dict[str, Any] = from_json(path.read_text(encoding="utf-8"))
        config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"], config["model_cfg"]["embed_dim"]
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path} is no open_clip configuration (model_cfg with text_cfg, vision_cfg, embed_dim)") from error
    return config


def find_weights(folder: Path) -> Path:
    """The one weights file that open_clip would load. Raises HarnessError if there is none, or no telling which."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    if not found:
        raise HarnessError(f"{folder} holds no weights; expected {WEIGHTS[0]}")
    if len(found) > 1:
        raise HarnessError(f"{folder} holds several weights files; name the one to load {WEIGHTS[0]}")
    return found[0]


def find_tower(text: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Folder with the configuration of the Hugging Face text tower, if the model has one: its own folder before the hub."""
    name = text.get("hf_model_name")
    if not name:
        return None
    need_transformers(name)
    if folder is not None and is_text_model(folder / "config.json"):
        return folder
    refuse_path(name, folder, "config.json")
    return hub_folder(name, [("config.json",)], f"text tower {name}")


def find_tokenizer(text: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Folder of the Hugging Face tokenizer, or a `tokenizer.json`, or None for CLIP's own. Raises HarnessError if none fits."""
    name = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    if name:
        need_transformers(name)
        if folder is not None and any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
            return folder
        refuse_path(name, folder, "tokenizer.json")
        return hub_folder(name, [(pattern,) for pattern in TOKENIZER_FILES], f"tokenizer {name}")
    # Copies of CLIP models hold a tokenizer.json too, for other libraries: where CLIP's vocabulary fits, open_clip uses its own.
    vocabulary = text.get("vocab_size", CLIP_VOCABULARY)
    if vocabulary == CLIP_VOCABULARY:
        return None
    if folder is None or not (folder / "tokenizer.json").is_file():
        place = f" ({folder})" if folder else ""
        raise HarnessError(f"a vocabulary of {vocabulary} is not CLIP's: the model's folder must hold its tokenizer.json{place}")
    return folder / "tokenizer.json"


def is_text_model(config: Path) -> bool:
    """Whether a file configures a text model that open_clip can use as a tower: folders of CLIP models hold another kind."""
    try:
        return from_json(config.read_text(encoding="utf-8")).get("model_type") in TEXT_MODELS
    except (OSError, ValueError, AttributeError):
        return False


def refuse_path(name: str, folder: Path | None, file: str) -> None:
    """Raise HarnessError for a path where a hub repository is expected: it would hold from one working folder only."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise HarnessError(f"{CONFIG} names its text model by the path {name}: put that model's {file} into {folder} itself")


def need_transformers(name: str) -> None:
    """Raise HarnessError if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise HarnessError(f"the text model {name} needs transformers: pip install 'flickr30k-harness[hf]'")
