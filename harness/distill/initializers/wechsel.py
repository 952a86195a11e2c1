"""The initializer `wechsel` (Minixhofer, Paischer and Rekabsaz, NAACL 2022): static word vectors made one space.

    v_f = sum_e W_fe E_e,   W_fe = exp(cos(x_f, y_e R) / T) / Z over the NEIGHBOURS most similar English tokens, T = TEMPERATURE,

with E (e, width) the teacher's embeddings. x_f and y_e are means of the vectors of the words that contain the token, weighted by
the words' frequencies. R is the rotation that brings the English words of a dictionary closest to their translations (orthogonal
Procrustes; Schönemann 1966). A token without a word keeps its random embedding.

Source: github.com/CPJKU/wechsel. What the authors download is made of the sentences at hand: vectors are those of
`distributional_vectors` over pairs and monolingual text, for fastText's, and the dictionary holds the words that fast_align links
most often with each other, for one by people.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.alignment.cooccurrence import Sparse, divide_rows
from harness.distill.alignment.distributional import distributional_vectors
from harness.distill.alignment.fast_align import fast_align_links
from harness.distill.alignment.links import count_links
from harness.distill.data.words import Words
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.model.tower import Tokens
from harness.runtime.vectors import unit_rows

NEIGHBOURS, TEMPERATURE = 10, 0.1
ROWS_AT_ONCE = 1000


class Wechsel(AlignedSubwords):
    """New subwords, aligned by static word vectors."""

    rescales = False

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `neighbour_weights` of the tokens' vectors (f, e)."""
        return neighbour_weights(*token_vectors(given, counted=True))


def token_vectors(given: AlignmentInput, counted: bool) -> tuple[Doubles, Doubles]:
    """Return vectors of length 1 of all subwords (f, d) and English tokens (e, d) in one space. A token without words has 0.

    counted: whether words are weighted by their frequency.
    """
    pairs, more = given.words(given.bitext), given.words(given.text)
    spaces = [united_words(*both) for both in zip(pairs, more, strict=True)]
    if not all(words.types for words in spaces):
        return np.zeros((given.sizes[0], 1)), np.zeros((given.sizes[1], 1))
    vectors = [distributional_vectors(words.texts, len(words.types)) for words in spaces]
    foreign_texts, english_texts = (words.texts[: len(given.bitext)] for words in spaces)
    dictionary = mutual_dictionary(foreign_texts, english_texts, (len(spaces[0].types), len(spaces[1].types)))
    rotation = rotate(vectors[1], vectors[0], dictionary)
    foreign, english = (
        unit_rows(token_word_shares(words, size, counted) @ own)
        for words, size, own in zip(spaces, given.sizes, (vectors[0], vectors[1] @ rotation), strict=True)
    )
    return foreign, english


def united_words(one: Words, other: Words) -> Words:
    """Return the words of the texts of both, with one numbering."""
    types = sorted({*one.types, *other.types})
    numbers = {word: number for number, word in enumerate(types)}
    return Words(types, [[numbers[words.types[number]] for number in text] for words in (one, other) for text in words.texts])


def mutual_dictionary(foreign: Tokens, english: Tokens, sizes: tuple[int, int]) -> Ints:
    """Return the words (n, 2), foreign and English, that are each other's most frequent link; the first of equal ones."""
    pairs = sorted((tuple(one), tuple(other)) for one, other in zip(foreign, english, strict=True))
    counts = count_links(pairs, fast_align_links(pairs), sizes)
    rows = np.flatnonzero(np.diff(counts.indptr))
    best = np.asarray(counts.argmax(axis=1)).ravel()[rows]
    kept = np.asarray(counts.argmax(axis=0)).ravel()[best] == rows
    return np.stack([rows[kept], best[kept]], axis=1)


def rotate(english: Doubles, foreign: Doubles, dictionary: Ints) -> Doubles:
    """Return R (d, d') that minimises |Y R - X| over orthogonal matrices, with Y and X the vectors of the dictionary's words."""
    left, _, right = np.linalg.svd(english[dictionary[:, 1]].T @ foreign[dictionary[:, 0]], full_matrices=False)
    rotation: Doubles = left @ right
    return rotation


def token_word_shares(words: Words, size: int, counted: bool) -> Sparse:
    """Return the share of each type of word among those that contain a token (size, words). A row sums to 1 or is empty.

    counted: by the number of times that a word occurs; otherwise all types count the same.

    >>> words = Words([(0,), (0, 1)], [[0, 0, 0], [1]])
    >>> token_word_shares(words, 3, counted=True).toarray().tolist()
    [[0.75, 0.25], [0.0, 1.0], [0.0, 0.0]]
    """
    occurring = np.bincount([number for text in words.texts for number in text], minlength=len(words.types))
    found = sorted({(id_, number) for number, word in enumerate(words.types) for id_ in word})
    rows, columns = np.array(found, dtype=np.int64).reshape(-1, 2).T
    amounts = occurring[columns].astype(float) if counted else np.ones(len(columns))
    matrix = sparse.csr_array(sparse.coo_array((amounts, (rows, columns)), shape=(size, len(words.types))))
    return divide_rows(matrix, matrix.sum(1))


def neighbour_weights(foreign: Doubles, english: Doubles) -> Sparse:
    """Return softmax(cos / TEMPERATURE) over each subword's NEIGHBOURS most similar English tokens (f, e).

    foreign, english: vectors (f, d) and (e, d) of length 1, or 0 for tokens that take no part.
    """
    rows, columns = (np.flatnonzero(side.any(1)) for side in (foreign, english))
    weights, nearest = [], []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        cosines = foreign[rows[first : first + ROWS_AT_ONCE]] @ english[columns].T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
        shares = np.exp((np.take_along_axis(cosines, order, 1) - cosines.max(1, keepdims=True)) / TEMPERATURE)
        weights.append(shares / shares.sum(1, keepdims=True))
        nearest.append(columns[order])
    if not len(rows) or not len(columns):
        return sparse.csr_array((len(foreign), len(english)))
    places = np.concatenate(nearest)
    entries = (np.concatenate(weights).ravel(), (np.repeat(rows, places.shape[1]), places.ravel()))
    return sparse.csr_array(sparse.coo_array(entries, shape=(len(foreign), len(english))))
