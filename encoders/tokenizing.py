"""Texts to token ids, and which of the ids are real."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor

from harness.api import HarnessError
from harness.encoders.sources import ModelFiles
from harness.registry import TASKS


class Tokenizer(Protocol):
    """What open_clip calls a tokenizer: n texts to ids (n, context), padded on the right."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids."""
        ...


class FileTokenizer:
    """A `tokenizer.json` of the `tokenizers` library in open_clip's manner: id 0 pads, and a text cut short keeps its end."""

    def __init__(self, path: Path, context_length: int) -> None:
        self.context_length = context_length
        self.tokenizer = RustTokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids."""
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, encoding in enumerate(self.tokenizer.encode_batch(texts)):
            text = encoding.ids
            if len(text) > self.context_length:
                text = [*text[: self.context_length - 1], text[-1]]
            ids[row, : len(text)] = torch.tensor(text)
        return ids


@dataclass(frozen=True)
class Framing:
    """What a tokenizer puts around every text.

    start, end: ids of the first and last token, None where there is none.
    pad: the id that fills up. pads_with_end: it is also the id of the last token.
    class_at_end: the last position, after the padding, is a token of its own.
    """

    start: int | None
    end: int | None
    pad: int
    pads_with_end: bool = False
    class_at_end: bool = False

    def real(self, ids: Tensor) -> Tensor:
        """Which of the ids (n, context) are tokens of their text, as booleans of that shape; at least one of each row."""
        if self.class_at_end:
            return ids != self.pad
        positions = torch.arange(ids.shape[1])
        # Counted from the right: inside a text the pad's id may be a token like any other (CLIP's 0 is "!").
        lengths = ((ids != self.pad) * (positions + 1)).amax(1) + int(self.pads_with_end)
        return positions < lengths.clamp(1, ids.shape[1])[:, None]


def make_tokenizer(files: ModelFiles) -> Tokenizer:
    """The tokenizer that open_clip would use, or the model's own `tokenizer.json`.

    Raises HarnessError if that one cannot serve the model.
    """
    text = files.text_config
    context = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options: Mapping[str, Any] = text.get("tokenizer_kwargs") or {}
    if files.tokenizer is None:
        tokenizer: Tokenizer = SimpleTokenizer(context_length=context, **options)
        return tokenizer
    if files.tokenizer.is_dir():
        mode = text.get("tokenizer_mode")
        hugging_face: Tokenizer = HFTokenizer(str(files.tokenizer), context_length=context, tokenizer_mode=mode, **options)
        return hugging_face
    own = FileTokenizer(files.tokenizer, context)
    check_vocabulary(own, files)
    return own


def check_vocabulary(tokenizer: FileTokenizer, files: ModelFiles) -> None:
    """Raise HarnessError if ids could fall outside the model's embedding, or pooling could miss the end of a text."""
    text, size = files.text_config, tokenizer.tokenizer.get_vocab_size()
    if size > text["vocab_size"]:
        raise HarnessError(f"{files.tokenizer} has {size} entries, but the model embeds {text['vocab_size']}")
    ends = tokenizer.tokenizer.encode("").ids[-1:]
    if text.get("pool_type", "argmax") == "argmax" and ends != [size - 1]:
        raise HarnessError(
            f"{files.tokenizer} must end every text with its largest id, {size - 1}: the model reads a sentence there "
            "(pool_type argmax)"
        )


def mark_language(tokenizer: Tokenizer, lang: str) -> None:
    """Tell a tokenizer that begins every text with its language (NLLB's) which one comes; others need not know.

    lang: BCP-47. Raises HarnessError if the model has no mark for it.
    """
    if not (isinstance(tokenizer, HFTokenizer) and hasattr(tokenizer.tokenizer, "set_src_lang_special_tokens")):
        return
    # The task's table of languages also knows them by the codes of FLORES-200, which NLLB uses.
    aliases = TASKS.load("flickr30k")().language(lang).aliases
    known = tokenizer.tokenizer.get_vocab()
    codes = [alias for alias in aliases if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", alias) and alias in known]
    if not codes:
        raise HarnessError(f"this text tower begins every text with a mark of its language, and has none for {lang}")
    # open_clip's own set_language has no effect under transformers 5, which goes back to this at every call.
    tokenizer.tokenizer.src_lang = codes[0]


def framing(tokenizer: Tokenizer) -> Framing:
    """Find out what a tokenizer puts around a text, from what it makes of an empty one."""
    pad, pads_with_end, class_at_end = 0, False, False
    if isinstance(tokenizer, HFTokenizer):
        inner = tokenizer.tokenizer
        pad = inner.pad_token_id or 0
        pads_with_end = pad == inner.eos_token_id
        class_at_end = tokenizer.tokenizer_mode == "clips"
    bare = Framing(None, None, pad, pads_with_end, class_at_end)
    empty, some = (ids_of(tokenizer, bare, text) for text in ("", "a"))
    first, last = some[0], some[-1]
    if len(empty) > 1:
        return Framing(first, last, pad, pads_with_end, class_at_end)
    # A single one is either the start or the end; a text with nothing around it leaves only a pad.
    return Framing(first if empty == [first] else None, last if empty == [last] else None, pad, pads_with_end, class_at_end)


def ids_of(tokenizer: Tokenizer, frame: Framing, text: str) -> list[int]:
    """The real ids of one text."""
    ids = tokenizer([text])
    real: list[int] = ids[frame.real(ids)].tolist()
    return real


def token_names(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What a tokenizer calls its tokens; a space before a word as ▁, a word's end without its mark."""
    if isinstance(tokenizer, FileTokenizer):
        return [str(tokenizer.tokenizer.id_to_token(number)).replace("Ġ", "▁") for number in ids]
    if isinstance(tokenizer, HFTokenizer):
        return [str(name).replace("Ġ", "▁") for name in tokenizer.tokenizer.convert_ids_to_tokens(ids)]
    if isinstance(tokenizer, SimpleTokenizer):
        return [str(tokenizer.decoder[number]).removesuffix("</w>") for number in ids]
    return [str(number) for number in ids]
