"""open_clip's multilingual models and SigLIP: their own configurations, made small, and their tokenizers' ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from harness.core.errors import HarnessError
from harness.encoders.open_clip.models import OpenClip, folder_encoder, pretrained_encoder
from harness.encoders.open_clip.pretrained import check_pretrained
from tests.support.nllb_tokenizers import NLLB, write_nllb_tokenizer
from tests.support.open_clip_models import PREPROCESSING, ROBERTA, TEXTS, VISION, WORDS, error, write_tokenizer

SMALL = {"width": 32, "heads": 2, "layers": 2, "vocab_size": len(WORDS) + 4}


def write_small(folder: Path, arch: str) -> OpenClip:
    """A random model of an architecture of open_clip's, its towers made small and its images' tower replaced by a plain one."""
    folder.mkdir()
    config: dict[str, Any] = open_clip.get_model_config(arch)
    text = {**config["text_cfg"], "context_length": 16}
    config |= {"embed_dim": 24, "vision_cfg": VISION}
    if "hf_model_name" in text:
        hugging_face = {**ROBERTA}
        if "nllb" in arch:
            hugging_face = {**NLLB, "vocab_size": write_nllb_tokenizer(folder)}
        else:
            write_tokenizer(folder, ROBERTA)
        (folder / "config.json").write_text(json.dumps(hugging_face))
        built = {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}
    else:
        text |= SMALL
        write_tokenizer(folder, ROBERTA)
        built = text
    torch.manual_seed(0)
    made = {key: value for key, value in config.items() if key != "custom_text"}
    model = open_clip.CustomTextCLIP(**{**made, "text_cfg": built})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**config, "text_cfg": text}, "preprocess_cfg": PREPROCESSING})
    )
    return folder_encoder(str(folder), "cpu")


def plain(encoder: OpenClip, texts: list[str]) -> np.ndarray:
    loaded = encoder.loaded
    with torch.inference_mode():
        return np.asarray(loaded.model.encode_text(loaded.reader.tokenizer(texts), normalize=False))


@pytest.mark.parametrize("arch", ["xlm-roberta-base-ViT-B-32", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"])
def test_small_models_of_real_architectures_are_as_open_clip_gives_them(arch: str, tmp_path: Path) -> None:
    encoder = write_small(tmp_path / "model", arch)
    assert error(encoder.encode_texts(TEXTS, "de"), plain(encoder, TEXTS)) < 1e-5
    assert np.array_equal(encoder.encode_texts(TEXTS, "de"), encoder.encode_texts(TEXTS, "en"))


def test_nllb_is_told_the_language(tmp_path: Path) -> None:
    encoder = write_small(tmp_path / "model", "nllb-clip-base-siglip")
    german, english = (encoder.encode_texts(TEXTS, lang) for lang in ("de", "en"))
    for lang, mark, got in (("de", "deu_Latn", german), ("en", "eng_Latn", english)):
        encoder.loaded.reader.tokenizer.tokenizer.src_lang = mark  # type: ignore[attr-defined]
        assert error(got, plain(encoder, TEXTS)) < 1e-5, lang
    assert error(german, english) > 1e-2
    assert error(encoder.encode_tokens(TEXTS, "de").pooled, german) < 1e-5
    with pytest.raises(HarnessError, match="starts every text with a language mark, and has none for cs"):
        encoder.encode_texts(TEXTS, "cs")


def test_every_tag_is_served_or_its_mismatch_is_named() -> None:
    served, renamed = 0, []
    for arch, tag in open_clip.list_pretrained():
        try:
            check_pretrained(arch, tag)
            served += 1
        except HarnessError as problem:
            renamed.append((arch, tag))
            right = str(problem).rpartition("use open_clip:")[2]
            assert check_pretrained(*right.split("/")) == tag
    assert served > 100
    assert ("ViT-B-32", "openai") in renamed


def test_every_architecture_is_served_or_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network and with nothing in the cache: a tokenizer or text tower of the hub is one clear line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    served, said = 0, []
    for arch in open_clip.list_models():
        try:
            encoder = pretrained_encoder(f"{arch}/{weights}", "cpu")
        except HarnessError:  # the file does not say which activation it was trained with
            encoder = pretrained_encoder(f"{arch}/{weights}@gelu", "cpu")
        try:
            encoder.fingerprint()
            served += 1
        except HarnessError as problem:
            said.append(str(problem))
    assert served > 60
    ways = "could not be downloaded|differ in preprocessing|must hold its tokenizer.json"
    assert [line for line in said if not re.search(ways, line)] == []
