"""What a model was trained on and the tokenizer in its folder does not do: lower case, padding on the right, a fixed length.

The files of the folder tell, so that fingerprints follow them without a model in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.encoders.file_names import MODEL_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

# Trained on texts filled up to a fixed length, padding attended to, and in lower case (arXiv 2502.14786, section 2.1; for SigLIP
# big_vision's and transformers' tokenizers); the others mask their padding.
FIXED_LENGTH = ("siglip", "siglip2")
LOWER_CASE, PAD_RIGHT, FIXED_LENGTH_STEP = "lower case", "padding on the right", "fixed length"
# transformers' tokenizers that lower-case by themselves, and those that pad on the left unless they are told otherwise.
SIGLIP_TOKENIZERS = ("SiglipTokenizer", "Siglip2Tokenizer")
PADDING_LEFT = ("CodeLlamaTokenizer", "CohereTokenizer", "GemmaTokenizer", "LlamaTokenizer", "Siglip2Tokenizer", "XLNetTokenizer")
SIGLIP_LENGTH = 64  # transformers' default, of positions and of SigLIP's tokenizer


def missing_steps(folder: Path) -> tuple[str, ...]:
    """What has to be done to texts beside what the tokenizer of a folder in transformers' form does; nothing for most."""
    model, tokenizer = read_json_or_empty(folder / MODEL_CONFIG_FILE), read_json_or_empty(folder / TOKENIZER_CONFIG_FILE)
    undone: tuple[str, ...] = () if pads_right(model, tokenizer) else (PAD_RIGHT,)
    if model.get("model_type") not in FIXED_LENGTH:
        return undone
    if not lower_cases(folder, model, tokenizer):
        undone += (LOWER_CASE,)
    positions = (model.get("text_config") or {}).get("max_position_embeddings", SIGLIP_LENGTH)
    usual = SIGLIP_LENGTH if tokenizer_class(model, tokenizer) == "SiglipTokenizer" else positions
    return (*undone, FIXED_LENGTH_STEP) if tokenizer.get("model_max_length", usual) < positions else undone


def pads_right(model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer pads on the right by itself."""
    side = tokenizer.get("padding_side")
    return side == "right" if side else tokenizer_class(model, tokenizer) not in PADDING_LEFT


def lower_cases(folder: Path, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer of a SigLIP model lower-cases by itself: by its class, or by the normalizer of its file."""
    if tokenizer_class(model, tokenizer) in SIGLIP_TOKENIZERS:
        return bool(tokenizer.get("do_lower_case", True))
    return has_lowercase(read_json_or_empty(folder / TOKENIZER_FILE).get("normalizer"))


def tokenizer_class(model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The class that transformers takes: for `siglip2` its own whatever the file says, for `siglip` unless it names one."""
    if model.get("model_type") == "siglip2":
        return "Siglip2Tokenizer"
    named = str(tokenizer.get("tokenizer_class") or "").removesuffix("Fast")
    return named or ("SiglipTokenizer" if model.get("model_type") == "siglip" else "")


def has_lowercase(normalizer: Any) -> bool:
    """Whether a normalizer of the `tokenizers` library lower-cases.

    >>> has_lowercase({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}), has_lowercase(None)
    (True, False)
    """
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "BertNormalizer":
        return bool(normalizer.get("lowercase"))
    return normalizer.get("type") == "Lowercase" or any(map(has_lowercase, normalizer.get("normalizers", ())))


def read_json_or_empty(path: Path) -> Mapping[str, Any]:
    """The object of a JSON file; an empty one where there is none. What else is wrong with it, the library that loads it says."""
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
