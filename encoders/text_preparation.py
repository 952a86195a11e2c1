"""Steps of text preparation that a model needs and the tokenizer in its folder lacks.

The steps are lower case, padding on the right and padding to a fixed length.
They are read from the files of the folder, so that a fingerprint covers them without a model in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.encoders.file_names import MODEL_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

# These models were trained on lower-case texts, padded to a fixed length, and they attend to the padding (arXiv 2502.14786,
# section 2.1; for SigLIP, the tokenizers of big_vision and transformers). Other models mask their padding.
FIXED_LENGTH = ("siglip", "siglip2")
LOWER_CASE, PAD_RIGHT, FIXED_LENGTH_STEP = "lower case", "padding on the right", "fixed length"
# Tokenizers of transformers that lower-case texts by default, and those that pad on the left by default.
SIGLIP_TOKENIZERS = ("SiglipTokenizer", "Siglip2Tokenizer")
PADDING_LEFT = ("CodeLlamaTokenizer", "CohereTokenizer", "GemmaTokenizer", "LlamaTokenizer", "Siglip2Tokenizer", "XLNetTokenizer")
SIGLIP_LENGTH = 64  # default of transformers for the number of positions and for the length of SigLIP's tokenizer


def missing_steps(folder: Path) -> tuple[str, ...]:
    """Return the steps that texts need in addition to the tokenizer of a folder in transformers' format.

    Most models need none.
    """
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
    """Return whether a tokenizer pads on the right by default."""
    side = tokenizer.get("padding_side")
    return side == "right" if side else tokenizer_class(model, tokenizer) not in PADDING_LEFT


def lower_cases(folder: Path, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a SigLIP model's tokenizer lower-cases texts, by its class or by the normalizer of its file."""
    if tokenizer_class(model, tokenizer) in SIGLIP_TOKENIZERS:
        return bool(tokenizer.get("do_lower_case", True))
    return has_lowercase(read_json_or_empty(folder / TOKENIZER_FILE).get("normalizer"))


def tokenizer_class(model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """Return the name of the tokenizer class that transformers uses, or an empty string if no file names one.

    For `siglip2` it is always `Siglip2Tokenizer`. For `siglip` it is `SiglipTokenizer` unless the file names another class.
    """
    if model.get("model_type") == "siglip2":
        return "Siglip2Tokenizer"
    named = str(tokenizer.get("tokenizer_class") or "").removesuffix("Fast")
    return named or ("SiglipTokenizer" if model.get("model_type") == "siglip" else "")


def has_lowercase(normalizer: Any) -> bool:
    """Return whether a normalizer of the `tokenizers` library lower-cases texts.

    >>> has_lowercase({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}), has_lowercase(None)
    (True, False)
    """
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "BertNormalizer":
        return bool(normalizer.get("lowercase"))
    return normalizer.get("type") == "Lowercase" or any(map(has_lowercase, normalizer.get("normalizers", ())))


def read_json_or_empty(path: Path) -> Mapping[str, Any]:
    """Return the object of a JSON file, or an empty one if the file is missing, invalid or not an object.

    The library that loads the file reports any other problem with it.
    """
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
