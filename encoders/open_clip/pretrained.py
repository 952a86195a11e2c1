"""Built-in architectures of open_clip with the weights of a tag or of a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.encoders.file_names import OPEN_CLIP_CONFIG_FILE
from harness.encoders.hub import hub_folder, quiet, unavailable_error
from harness.encoders.open_clip.model_files import HUB_WEIGHTS, ModelFiles, find_text_config, find_tokenizer

# Suffix of a checkpoint file whose weights were trained with GELU, although published weights of the architecture were trained
# with QuickGELU.
GELU = "@gelu"
PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def pretrained_files(arch: str, pretrained: str) -> ModelFiles:
    """Return the files of a built-in architecture with the weights of a tag or of a checkpoint file.

    The weights of a tag are downloaded if necessary.
    Raises HarnessError if weights or tokenizer are not on this machine and cannot be downloaded.
    """
    import open_clip

    tag = open_clip.get_pretrained_cfg(arch, pretrained)
    config = open_clip.get_model_config(arch)
    return ModelFiles(
        model=arch,
        config=config,
        preprocessing={key: tag[key] for key in PREPROCESSING if key in tag} if tag else shared_preprocessing(arch),
        weights=tag_weights(tag, f"open_clip:{arch}/{pretrained}") if tag else checkpoint_file(pretrained).resolve(),
        tower=find_text_config(config["text_cfg"], None),
        tokenizer=find_tokenizer(config["text_cfg"], None),
    )


def check_pretrained(arch: str, pretrained: str) -> str:
    """Return the canonical form of `pretrained`. Raises HarnessError with the valid names if open_clip does not know it."""
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
    """Return the path of a checkpoint file, without the suffix for its activation."""
    return Path(pretrained if Path(pretrained).is_file() else pretrained.removesuffix(GELU))


def check_file_activation(arch: str, pretrained: str) -> None:
    """Raise HarnessError if a checkpoint file may have been trained with another GELU than its architecture computes.

    The file does not record the activation. OpenAI's and similar weights are published for architectures of both names.
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
    """Raise HarnessError if a tag was trained with another GELU than its architecture computes. open_clip would only warn."""
    import open_clip

    if bool(open_clip.get_model_config(arch).get("quick_gelu")) == quick:
        return
    twin = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
    # Without a twin architecture, the tag is the only one and lacks the mark because of an oversight in open_clip.
    if twin != arch and twin in open_clip.list_models():
        kind = "QuickGELU" if quick else "GELU"
        raise HarnessError(f"{tag} of {arch} was trained with {kind}, which {arch} does not compute; use open_clip:{twin}/{tag}")


def shared_preprocessing(arch: str) -> Mapping[str, Any]:
    """Return the preprocessing that all tags of an architecture share. Raises HarnessError if the tags differ.

    A checkpoint file does not record its preprocessing, and open_clip would use OpenAI's for every file.
    """
    import open_clip

    configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    ways = [{key: config[key] for key in PREPROCESSING if key in config} for config in configs]
    if any(way != ways[0] for way in ways):
        raise HarnessError(
            f"models of {arch} differ in preprocessing, which a checkpoint file does not record: "
            f"put it into a folder with a {OPEN_CLIP_CONFIG_FILE} and use local-dir:"
        )
    return ways[0] if ways else {}


def tag_weights(tag: Mapping[str, Any], name: str) -> Path:
    """Return the weights file of a tag, from the cache or the network. Raises HarnessError if it is not available."""
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
        raise unavailable_error(name, str(tag["url"]), error) from error
