"""Strings of tokens, comparable between tokenizers that mark the starts and ends of words differently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders

WORD_START = "▁"
_BYTES = decoders.ByteLevel()


def token_strings(tokenizer: Tokenizer) -> list[str]:
    """Return the string of each id, where a token that starts a word begins with `▁`.

    Marks of word starts are `▁` and `Ġ`. Without them, `##` or another prefix marks tokens inside a word, and `</w>` tokens that
    end one. A token with `</w>` counts as a word, since most occur as whole words. Tokens of bytes become text; those that are
    no text keep their form. Special tokens and ids without a token have "".

    >>> from tokenizers.models import WordPiece
    >>> token_strings(Tokenizer(WordPiece({"dog": 0, "##s": 2}, unk_token="dog")))
    ['▁dog', '', 's']
    """
    state = json.loads(tokenizer.to_str())
    special = {token["id"] for token in state["added_tokens"] if token["special"]}
    named = tokenizer.get_vocab()
    strings = [""] * (max(named.values(), default=-1) + 1)
    for name, id_ in named.items():
        strings[id_] = "" if id_ in special else comparable_string(name, state["model"], has_bytes(state))
    return strings


def has_bytes(state: Mapping[str, Any]) -> bool:
    """Return whether the tokens of a tokenizer's state are of bytes (byte-level encodings)."""
    return '"ByteLevel"' in json.dumps(state["pre_tokenizer"])


def comparable_string(name: str, model: Mapping[str, Any], of_bytes: bool) -> str:
    """Return a token's string as `token_strings` does."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    whole = bool(suffix) and name.endswith(suffix)
    name = name.removesuffix(suffix) if whole else name
    if of_bytes:
        text = _BYTES.decode([name])
        name = name if "\ufffd" in text else text.replace(" ", WORD_START)
    if prefix or model["type"] in ("WordLevel", "WordPiece"):
        inside = bool(prefix) and name.startswith(prefix)
        return name.removeprefix(prefix) if inside else WORD_START + name
    return WORD_START + name if whole else name


def shared_tokens(foreign: Sequence[str], english: Sequence[str], ignores_case: bool = False) -> dict[int, int]:
    """Return the id of the English token with the same string, for each foreign id that has one.

    Of several the first counts. ignores_case: where there is none, strings that differ in case count too.

    >>> shared_tokens(["", "▁taxi", "▁wasi", "▁Dj"], ["▁dj", "", "▁taxi"])
    {1: 2}
    >>> shared_tokens(["▁taxi", "▁Dj"], ["▁dj", "▁taxi"], ignores_case=True)
    {0: 1, 1: 0}
    """
    exact: dict[str, int] = {}
    folded: dict[str, int] = {}
    for id_, string in enumerate(english):
        exact.setdefault(string, id_)
        folded.setdefault(string.lower(), id_)
    found = {}
    for id_, string in enumerate(foreign):
        same = exact.get(string)
        if same is None and ignores_case:
            same = folded.get(string.lower())
        if string and same is not None:
            found[id_] = same
    return found
