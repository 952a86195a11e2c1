"""Where the files of an open_clip model lie: in a folder, in a repository of the Hugging Face hub, or behind a tag of open_clip.

Nothing here imports torch, but for tags, which open_clip itself has to be asked for.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.api import HarnessError, digest_strings
from harness.config import digest_json
from harness.plugins import digest_file
from harness.registry import nearest

# Raised when the same files come to give other embeddings: by a change here, in tokenizing.py or in text_towers.py.
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
TEXT_FILES = ("*.json", "*.txt", "*.model")
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")
TEXT_MODELS = frozenset({"bert", "roberta", "xlm-roberta", "mt5", "m2m_100"})
PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
CLIP_VOCABULARY = 49_408
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

    def digest(self) -> str:
        """A digest of contents, whatever the names of folders."""
        parts = [SEMANTICS, digest_json(self.config), digest_json(self.preprocessing), digest_file(self.weights)]
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
        weights=tag_weights(tag, f"open_clip:{arch}/{pretrained}") if tag else Path(pretrained).resolve(),
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
    if not Path(pretrained).is_file():
        known = nearest(pretrained, tags) if tags else f"{arch} has no tags"
        raise HarnessError(f"{pretrained!r} is neither a tag of {arch} nor a checkpoint file: {known}")
    return pretrained


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


def hub_folder(
    repo: str,
    choices: Sequence[Sequence[str]],
    name: str,
    beside: Sequence[str] = TEXT_FILES,
    instead: str = "local-dir:FOLDER",
) -> Path:
    """A folder of the hub's cache that holds the files of one choice (patterns), the first that the repository can serve.

    The network is asked only for what the cache lacks. `beside`: patterns of what else is fetched where it is there.
    `instead`: what to type for a copy of it.
    Raises HarnessError if neither has it.
    """
    from huggingface_hub import snapshot_download

    problem: Exception = FileNotFoundError(f"{repo} has no {' or '.join(choice[-1] for choice in choices)}")
    for cached in (True, False):
        for choice in choices:
            try:
                with quiet():
                    patterns = [*choice, *beside]
                    folder = Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=cached))
            except Exception as error:  # many kinds, of the hub, of its HTTP library and of the system
                problem = problem if cached else error
                continue
            if all(any(folder.glob(pattern)) for pattern in choice):
                return folder
    raise not_here(name, f"https://huggingface.co/{repo}", problem, instead) from problem


def not_here(name: str, place: str, problem: Exception, instead: str = "local-dir:FOLDER") -> HarnessError:
    """What to say of files that are neither on this machine nor to be had."""
    return HarnessError(
        f"{name}: its files are not on this machine and could not be downloaded from {place} ({type(problem).__name__}); "
        f"run once with network, or copy the model to a folder and use {instead}"
    )


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
    found = sorted(path for pattern in ("*.safetensors", "*.bin", "*.pth") for path in folder.glob(pattern))
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' log lines and warnings off the console.

    open_clip logs through the root logger, which would also give it a handler for good if it had none.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    before = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
