"""Tokenization for open_clip models, and the distinction of tokens from padding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer, get_clean_fn
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor

from harness.core.data import Span, Spans
from harness.core.errors import HarnessError
from harness.core.languages import all_languages, resolve_language
from harness.distill.data.subwords import truncate
from harness.encoders.open_clip.model_files import ModelFiles
from harness.retrieval.text_spans import map_spans

NOWHERE = (0, 0)
# CLIP's pattern of words. The names of the framing tokens are no words here: they would let a text end itself.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# The steps of ftfy that matter to captions, in open_clip's cleaning of texts. Repair of broken encodings is left out.
_STRAIGHT_QUOTES = (("[\u02bc\u2018-\u201b]", "'"), ("[\u201c-\u201f]", '"'))
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~]"""


class Tokenizer(Protocol):
    """open_clip's tokenizer interface, which converts n texts to ids (n, context), padded on the right."""

    context_length: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Return token ids (n, context)."""
        ...


class FileTokenizer:
    """A `tokenizer.json` of the `tokenizers` library with open_clip's conventions.

    Id 0 is padding, and a truncated text keeps its end token.
    """

    def __init__(self, path: Path, context_length: int) -> None:
        self.context_length = context_length
        self.tokenizer = RustTokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, texts: list[str]) -> Tensor:
        """Return token ids (n, context)."""
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, encoding in enumerate(self.tokenizer.encode_batch(texts)):
            text = truncate(encoding.ids, self.context_length)
            ids[row, : len(text)] = torch.tensor(text)
        return ids


@dataclass(frozen=True)
class Framing:
    """The special tokens that a tokenizer adds to every text.

    start, end: ids of the start and end tokens; None if the tokenizer has none.
    pad: the id of padding. pads_with_end: whether the end token has the same id.
    class_at_end: whether the last position, after the padding, is a class token.
    """

    start: int | None
    end: int | None
    pad: int
    pads_with_end: bool = False
    class_at_end: bool = False

    def real(self, ids: Tensor) -> Tensor:
        """Return booleans (n, context) that are true for tokens and false for padding. Each row has at least one token."""
        if self.class_at_end:
            return ids != self.pad
        positions = torch.arange(ids.shape[1])
        # Padding is counted from the right, because inside a text the pad id may be an ordinary token (CLIP's 0 is "!").
        lengths = ((ids != self.pad) * (positions + 1)).amax(1) + int(self.pads_with_end)
        return positions < lengths.clamp(1, ids.shape[1])[:, None]


def make_tokenizer(files: ModelFiles) -> Tokenizer:
    """Return the tokenizer that open_clip would use, or the model's own `tokenizer.json`.

    Raises HarnessError if the `tokenizer.json` does not fit the model.
    """
    text = files.text_config
    context = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options: Mapping[str, Any] = text.get("tokenizer_kwargs") or {}
    if files.tokenizer is None:
        tokenizer: Tokenizer = SimpleTokenizer(context_length=context, **options)
        return tokenizer
    if files.tokenizer.is_dir():
        mode = text.get("tokenizer_mode")
        hugging_face = HFTokenizer(str(files.tokenizer), context_length=context, tokenizer_mode=mode, **options)
        # Gemma's tokenizer pads on the left by default, but no open_clip model was trained with padding on the left.
        hugging_face.tokenizer.padding_side = "right"
        padded: Tokenizer = hugging_face
        return padded
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
            f"{files.tokenizer} must end every text with its largest id, {size - 1}: the model pools there (pool_type argmax)"
        )


def mark_language(tokenizer: Tokenizer, lang: str) -> None:
    """Set the language of a tokenizer that starts every text with a language mark (NLLB's). Other tokenizers do not change.

    lang: BCP-47. Raises HarnessError if the model has no mark for the language.
    """
    if not (isinstance(tokenizer, HFTokenizer) and hasattr(tokenizer.tokenizer, "set_src_lang_special_tokens")):
        return
    # The table of languages also lists the codes of FLORES-200, which NLLB uses.
    aliases = resolve_language(lang, all_languages()).aliases
    known = tokenizer.tokenizer.get_vocab()
    codes = [alias for alias in aliases if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", alias) and alias in known]
    if not codes:
        raise HarnessError(f"this text tower starts every text with a language mark, and has none for {lang}")
    # open_clip's own set_language has no effect with transformers 5, which resets the language to src_lang at every call.
    tokenizer.tokenizer.src_lang = codes[0]


def detect_framing(tokenizer: Tokenizer) -> Framing:
    """Return the framing of a tokenizer, derived from its tokens for an empty text and for a short one."""
    pad, pads_with_end, class_at_end = 0, False, False
    if isinstance(tokenizer, HFTokenizer):
        inner = tokenizer.tokenizer
        pad = inner.pad_token_id or 0
        pads_with_end = pad == inner.eos_token_id
        class_at_end = tokenizer.tokenizer_mode == "clips"
    bare = Framing(None, None, pad, pads_with_end, class_at_end)
    empty, some = (token_ids(tokenizer, bare, text) for text in ("", "a"))
    first, last = some[0], some[-1]
    if len(empty) > 1:
        return Framing(first, last, pad, pads_with_end, class_at_end)
    # A single token is either the start or the end. Without framing, an empty text consists of padding only.
    return Framing(first if empty == [first] else None, last if empty == [last] else None, pad, pads_with_end, class_at_end)


def token_ids(tokenizer: Tokenizer, frame: Framing, text: str) -> list[int]:
    """Return the token ids of one text, without padding."""
    ids = tokenizer([text])
    real: list[int] = ids[frame.real(ids)].tolist()
    return real


def token_names(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Return a tokenizer's names of tokens. A space before a word is written as ▁, and marks of word ends are removed."""
    if isinstance(tokenizer, FileTokenizer):
        return [str(tokenizer.tokenizer.id_to_token(number)).replace("Ġ", "▁") for number in ids]
    if isinstance(tokenizer, HFTokenizer):
        return [str(name).replace("Ġ", "▁") for name in tokenizer.tokenizer.convert_ids_to_tokens(ids)]
    if isinstance(tokenizer, SimpleTokenizer):
        return [str(tokenizer.decoder[number]).removesuffix("</w>") for number in ids]
    return [str(number) for number in ids]


def token_spans(tokenizer: Tokenizer, texts: Sequence[str], ids: Tensor, real: Tensor) -> list[Spans]:
    """Return the character span of each token in its text, without padding.

    ids, real: the tokenizer's output for the texts, and booleans that are false for padding, both (n, context).
    The tokens of the framing have the span (0, 0). Raises HarnessError if the tokenizer provides no offsets.
    """
    located = []
    for text, row, is_real in zip(texts, ids.tolist(), real.tolist(), strict=True):
        cleaned, read = read_tokens(tokenizer, text)
        spans = []
        for place, number in enumerate(row):
            if is_real[place]:
                # A token after the padding (the class token) belongs to no part of the text.
                known, span = read[place] if place < len(read) else (number, NOWHERE)
                if known != number:
                    raise HarnessError(f"a {type(tokenizer).__name__} does not provide the offsets of the tokens of {text!r}")
                spans.append(span)
        located.append(map_spans(spans, cleaned, text))
    return located


def read_tokens(tokenizer: Tokenizer, text: str) -> tuple[str, list[tuple[int, Span]]]:
    """Return a text as the tokenizer cleans it, and its tokens with their spans in that text, framing included."""
    longest = tokenizer.context_length
    if isinstance(tokenizer, FileTokenizer):
        found = tokenizer.tokenizer.encode(text)
        return text, truncate(list(zip(found.ids, found.offsets, strict=True)), longest)
    if isinstance(tokenizer, SimpleTokenizer):
        cleaned = tokenizer.clean_fn(text)
        first, last = ((number, NOWHERE) for number in (tokenizer.sot_token_id, tokenizer.eot_token_id))
        return cleaned, truncate([first, *byte_pair_tokens(tokenizer, cleaned), last], longest)
    if isinstance(tokenizer, HFTokenizer) and tokenizer.tokenizer.is_fast:
        cleaned, inner = tokenizer.clean_fn(text), tokenizer.tokenizer
        if tokenizer.tokenizer_mode == "clips":
            found = inner(cleaned, add_special_tokens=False, return_offsets_mapping=True)
            pairs = list(zip(found["input_ids"], found["offset_mapping"], strict=True))[: longest - 3]
            return cleaned, [(inner.bos_token_id, NOWHERE), *pairs, (inner.eos_token_id, NOWHERE)]
        found = inner(cleaned, max_length=longest, truncation=True, return_offsets_mapping=True)
        return cleaned, list(zip(found["input_ids"], found["offset_mapping"], strict=True))
    return text, [(-1, NOWHERE)]


def byte_pair_tokens(tokenizer: SimpleTokenizer, text: str) -> Iterator[tuple[int, Span]]:
    """Yield the tokens of a cleaned text under CLIP's own byte-pair tokenizer, each with its character span."""
    for word in tokenizer.pat.finditer(text):
        owners = [word.start() + place for place, char in enumerate(word[0]) for _ in char.encode()]
        at = 0
        for piece in tokenizer.bpe("".join(tokenizer.byte_encoder[byte] for byte in word[0].encode())).split(" "):
            size = len(piece.removesuffix("</w>"))
            yield tokenizer.encoder[piece], (owners[at], owners[at + size - 1] + 1)
            at += size


def as_fast_tokenizer(tokenizer: Tokenizer) -> RustTokenizer | None:
    """Return a tokenizer with the same ids for the same text, framing included, without padding and truncation.

    None if open_clip's tokenizer has no such form, as the one of sentencepiece. Texts with a broken encoding or with HTML
    entities are the exception: open_clip repairs them before it splits them.
    """
    if isinstance(tokenizer, FileTokenizer):
        return RustTokenizer.from_str(tokenizer.tokenizer.to_str())
    if isinstance(tokenizer, SimpleTokenizer):
        return convert_clip_tokenizer(tokenizer)
    if isinstance(tokenizer, HFTokenizer) and tokenizer.tokenizer.is_fast:
        if tokenizer.tokenizer_mode == "clips" or tokenizer.strip_sep_token:
            return None
        fast = RustTokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
        fast.no_padding()
        fast.no_truncation()
        steps = [cleaning(tokenizer), *([fast.normalizer] if fast.normalizer else [])]
        fast.normalizer = normalizers.Sequence(steps)
        return fast
    return None


def convert_clip_tokenizer(tokenizer: SimpleTokenizer) -> RustTokenizer:
    """Return CLIP's byte-pair encoding with its framing."""
    fast = RustTokenizer(models.BPE(dict(tokenizer.encoder), list(tokenizer.bpe_ranks), end_of_word_suffix="</w>"))
    fast.normalizer = cleaning(tokenizer)
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
    fast.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    framing = {tokenizer.decoder[id_]: id_ for id_ in (tokenizer.sot_token_id, tokenizer.eot_token_id)}
    start, end = framing
    fast.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=list(framing.items()))
    return fast


def cleaning(tokenizer: SimpleTokenizer | HFTokenizer) -> normalizers.Normalizer:
    """Return a tokenizer's cleaning of texts as a normalizer: straight quotes, one space between words, and lower case."""
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    steps += [normalizers.Replace(Regex(pattern), straight) for pattern, straight in _STRAIGHT_QUOTES]
    if tokenizer.clean_fn is get_clean_fn("canonicalize"):
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(_PUNCTUATION), "")]
    if tokenizer.clean_fn is not get_clean_fn("whitespace"):
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
