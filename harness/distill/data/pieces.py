"""New pieces for a tokenizer that was made for another language.

A tokenizer splits words of a script that it hardly knows into single characters, or into its unknown token. Such words get pieces
of their own. All other words are split as before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# A word falls back to single characters if its pieces have fewer characters than this on average.
CHARACTERS_A_PIECE = 1.5
SMALLEST_PIECE_COUNT = 2
_PRIVATE = 0xF0000  # the first code point of a plane for private use, with room for 65,534 pieces


class ExtendedTokenizer(NamedTuple):
    """A tokenizer with new pieces. parts: the ids of the old pieces that each new piece replaces, in the order of their ids."""

    tokenizer: Tokenizer
    parts: list[list[int]]


def with_new_pieces(tokenizer: Tokenizer, texts: Sequence[str], limit: int, first: int) -> ExtendedTokenizer:
    """Return the tokenizer with at most `limit` new pieces for the words of texts that fall back to single characters.

    New pieces have the ids from `first` on. Each occurs at least twice, but for single characters that the model does not know.
    In a byte-pair encoding they are merges of lower priority than the old ones, and in WordPiece longer entries.
    A tokenizer of another kind (Unigram) gets none.
    """
    words, state = fallback_words(tokenizer, texts), json.loads(tokenizer.to_str())
    model = state["model"]
    if not words or model["type"] not in ("BPE", "WordPiece"):
        return ExtendedTokenizer(tokenizer, [])
    if model["type"] == "BPE":
        parts = add_merges(tokenizer, words, model, limit, first)
    else:
        parts = add_entries(tokenizer, words, model, limit, first)
    return ExtendedTokenizer(Tokenizer.from_str(json.dumps(state)), parts)


def fallback_words(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int]:
    """Return the words of texts that fall back to single characters or the unknown token, with their counts, in text order.

    A word is what the tokenizer's model splits: a string after normalization and pre-tokenization.
    """
    counts: Counter[str] = Counter()
    lengths: dict[str, int] = {}
    for text in texts:
        for word, (start, stop) in split_words(tokenizer, text):
            counts[word] += 1
            lengths[word] = stop - start
    return {word: count for word, count in counts.items() if falls_back(tokenizer, word, lengths[word])}


def split_words(tokenizer: Tokenizer, text: str) -> list[tuple[str, tuple[int, int]]]:
    """Return the words that the model of a tokenizer splits, with their character spans in the normalized text."""
    normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    if tokenizer.pre_tokenizer is None:
        return [(normalized, (0, len(normalized)))]
    words: list[tuple[str, tuple[int, int]]] = tokenizer.pre_tokenizer.pre_tokenize_str(normalized)
    return words


def falls_back(tokenizer: Tokenizer, word: str, characters: int) -> bool:
    """Return whether a word is unknown, or has several characters but fewer than CHARACTERS_A_PIECE for each of its pieces."""
    pieces = tokenizer.model.tokenize(word)
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None and any(piece.value == unknown for piece in pieces):
        return True
    return characters > 1 and characters < CHARACTERS_A_PIECE * len(pieces)


def add_merges(tokenizer: Tokenizer, words: Mapping[str, int], model: dict[str, Any], limit: int, first: int) -> list[list[int]]:
    """Add merges to the state of a byte-pair encoding, in place, and return the old ids that each new piece replaces.

    The merges continue the encoding (Sennrich et al. 2016) from the pieces into which it splits the words now.
    """
    vocabulary: dict[str, int] = model["vocab"]
    prefix = model["continuing_subword_prefix"] or ""
    as_lists = not model["merges"] or isinstance(model["merges"][0], list)
    old = {id_: [id_] for id_ in vocabulary.values()}
    parts: dict[int, list[int]] = {}
    split = {word: [piece.value for piece in tokenizer.model.tokenize(word)] for word in words}
    for left, right in learn_merges(split, words, limit, prefix):
        merged = left + right.removeprefix(prefix)
        if merged in vocabulary:
            continue
        known = old | parts
        parts[first + len(parts)] = known[vocabulary[left]] + known[vocabulary[right]]
        vocabulary[merged] = first + len(parts) - 1
        model["merges"].append([left, right] if as_lists else f"{left} {right}")
    return list(parts.values())


def learn_merges(
    split: Mapping[str, Sequence[str]], words: Mapping[str, int], limit: int, prefix: str
) -> Iterator[tuple[str, str]]:
    """Yield at most `limit` merges of the pieces of words, most frequent first. The order of words changes nothing.

    split: the pieces of each word. words: its count. prefix: the mark of a piece that continues a word, or "". The trainer of the
    library merges characters, so each piece is written as one character for private use.
    """
    pieces = sorted({piece for each in split.values() for piece in each})
    names = {piece: chr(_PRIVATE + place) for place, piece in enumerate(pieces)}
    spelled = ("".join(names[piece] for piece in split[word]) for word, count in words.items() for _ in range(count))
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        spelled, trainers.BpeTrainer(vocab_size=len(names) + limit, min_frequency=SMALLEST_PIECE_COUNT, show_progress=False)
    )

    def joined(codes: str) -> str:
        start, *more = (pieces[ord(code) - _PRIVATE] for code in codes)
        return start + "".join(piece.removeprefix(prefix) for piece in more)

    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        yield joined(left), joined(right)


def add_entries(tokenizer: Tokenizer, words: Mapping[str, int], model: dict[str, Any], limit: int, first: int) -> list[list[int]]:
    """Add entries to the state of a WordPiece model, in place, and return the old ids that each new piece replaces.

    WordPiece takes the longest entry at each place of a word, so that longer entries replace single characters.
    """
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    split = {word: [word[0], *(prefix + character for character in word[1:])] for word in words}
    characters = sorted({piece for each in split.values() for piece in each})
    merged = [left + right.removeprefix(prefix) for left, right in learn_merges(split, words, limit, prefix)]
    new = [piece for piece in dict.fromkeys([*characters, *merged]) if piece not in vocabulary][:limit]
    parts = [[part.id for part in tokenizer.model.tokenize(piece.removeprefix(prefix))] for piece in new]
    vocabulary.update({piece: first + place for place, piece in enumerate(new)})
    return parts
