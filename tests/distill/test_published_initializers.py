"""Published initializers against their published rules, on small cases worked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from harness.core.builtins import load_initializer
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Floats, Spans, TokenStates
from harness.core.errors import HarnessError
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.subwords import END, START, UNKNOWN
from harness.distill.data.token_strings import shared_tokens, token_strings
from harness.distill.data.words import Words, split_into_words
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.initializers.focus import focus_weights, sparsemax
from harness.distill.initializers.interface import layers_of
from harness.distill.initializers.ofa import copied_weights
from harness.distill.initializers.trans_tokenization import fallback_counts, piece_counts, piece_shares
from harness.distill.initializers.vocabularies import NewSubwords
from harness.distill.initializers.wechsel import mutual_dictionary, neighbour_weights, rotate
from harness.distill.model.tower import DonatedLayers, TextTower, TowerConfig

PUBLISHED = ("ibm1-agreed", "fvt", "ramen", "trans-tokenization", "wechsel", "ofa", "focus")
SIMALIGN = ("simalign:argmax", "simalign:itermax", "simalign:match")
ENGLISH_PIECES = ["[unk]", "<s>", "</s>", "dog", "cat", "red", "taxi", "runs", "ta", "##xi", "##s", "to", "##kyo", "house"]
SHAPE = TowerConfig(vocab_size=len(ENGLISH_PIECES), width=16, layers=1, heads=2, mlp_width=16, joint_dim=8, max_length=16)
WORDS = {"dog": "perro", "cat": "gato", "red": "rojo", "taxi": "taxi", "runs": "corre", "house": "casa"}


def english_tokenizer() -> Tokenizer:
    """Return a WordPiece tokenizer of ENGLISH_PIECES that frames texts."""
    tokenizer = Tokenizer(models.WordPiece({piece: id_ for id_, piece in enumerate(ENGLISH_PIECES)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[unk]", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


class PieceTeacher:
    """A text encoder with random layers under the tokenizer of `english_tokenizer`. The state of a token is its embedding's."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weights = TextTower(SHAPE).state_dict()

    def fingerprint(self) -> str:
        return "pieces"

    def encode_texts(self, texts: Sequence[str], _: str) -> Floats:
        return np.zeros((len(texts), SHAPE.joint_dim), dtype=np.float32)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in english_tokenizer().encode_batch(list(texts))]

    def locate_tokens(self, texts: Sequence[str], _: str) -> list[Spans]:
        return [tuple(encoding.offsets) for encoding in english_tokenizer().encode_batch(list(texts))]

    def encode_tokens(self, texts: Sequence[str], _: str) -> TokenStates:
        rows = self.tokenize(texts)
        states = np.eye(len(ENGLISH_PIECES), dtype=np.float32)[[id_ for row in rows for id_ in row]]
        return TokenStates(states, np.array([len(row) for row in rows]), np.zeros((len(texts), 8), np.float32))

    def donate_layers(self) -> DonatedLayers:
        weights = {name: value.clone() for name, value in self.weights.items()}
        return DonatedLayers(SHAPE, weights, 1, 2, self.tokenize, english_tokenizer())


def word_bitext(count: int = 120) -> Bitext:
    """Return bitext in which each foreign word translates an English one, in the same order."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(list(WORDS))[: rng.integers(2, 5)].tolist() for _ in range(count)]
    foreign = tuple(" ".join(WORDS[word] for word in row) for row in rows)
    return Bitext("xx", "test", "human translation", tuple(map(" ".join, rows)), foreign, ("",) * count)


BITEXT = word_bitext()


def alignment_input(bitext: Bitext = BITEXT, **choices: object) -> AlignmentInput:
    """Return what the initializers read of a bitext, with new subwords."""
    teacher, config = PieceTeacher(), DistillConfig(**choices)  # type: ignore[arg-type]
    donated = layers_of(teacher)
    tokenizer, embeddings = NewSubwords().build(donated, config, bitext, MonolingualText())
    return AlignmentInput(teacher, donated, tokenizer, len(embeddings), config, bitext, MonolingualText())


def weights_of(init: str, given: AlignmentInput | None = None) -> Sparse:
    initializer = load_initializer(init)
    assert isinstance(initializer, AlignedSubwords)
    return initializer.weights(given or alignment_input())


def row_of(weights: Sparse, word: str) -> dict[str, float]:
    """Return the English pieces and their weights of a foreign word that is one subword."""
    id_ = alignment_input().tokenizer.token_to_id("▁" + word)
    row = weights[[id_]].tocoo()
    return {ENGLISH_PIECES[column]: float(weight) for column, weight in zip(row.col, row.data, strict=True)}


@pytest.mark.parametrize("init", PUBLISHED)
def test_a_row_of_weights_sums_to_one_or_is_empty_and_framing_has_none(init: str) -> None:
    given, weights = alignment_input(), weights_of(init)
    sums = weights.sum(1)
    np.testing.assert_allclose(sums[sums != 0], 1)
    assert weights.data.min() >= 0
    assert not sums[[given.tokenizer.token_to_id(START), given.tokenizer.token_to_id(END)]].any()


@pytest.mark.parametrize("init", [*PUBLISHED, *SIMALIGN])
def test_the_order_of_pairs_changes_no_bit(init: str) -> None:
    shuffled = BITEXT.take(np.random.default_rng(3).permutation(len(BITEXT)).tolist())
    students = [
        load_initializer(init).student(PieceTeacher(), DistillConfig(init=init), bitext, MonolingualText())
        for bitext in (BITEXT, shuffled)
    ]
    one, other = (student.tower.token_embedding.weight for student in students)
    assert torch.equal(one, other)


@pytest.mark.parametrize("init", ["ibm1-agreed", "ramen", "trans-tokenization", "wechsel", "ofa"])
def test_translations_are_found_in_pairs(init: str) -> None:
    weights = weights_of(init)
    found = {word: max(row, key=row.__getitem__) for word in WORDS if (row := row_of(weights, WORDS[word]))}
    assert found == {word: word for word in WORDS}


def test_published_means_are_plain_and_can_be_rescaled() -> None:
    known = PieceTeacher().weights["token_embedding.weight"]
    id_ = alignment_input().tokenizer.token_to_id("▁casa")
    student = load_initializer("ramen").student(PieceTeacher(), DistillConfig(init="ramen"), BITEXT, MonolingualText())
    mean = torch.from_numpy((weights_of("ramen")[[id_]] @ known.double().numpy())[0]).float()
    torch.testing.assert_close(student.tower.token_embedding.weight[id_], mean)
    config = DistillConfig(init="ramen", rescale=True)
    moved = load_initializer("ramen").student(PieceTeacher(), config, BITEXT, MonolingualText())
    assert not torch.equal(moved.tower.token_embedding.weight[id_], mean)


def test_fvt_is_the_mean_of_the_pieces_of_a_string() -> None:
    bitext = Bitext("xx", "test", "human translation", ("dog",) * 2, ("taxi tokyo taxis dogs",) * 2, ("",) * 2)
    given = alignment_input(bitext)
    weights = weights_of("fvt", given).toarray()
    pieces = {
        string: {ENGLISH_PIECES[e]: float(row[e]) for e in np.flatnonzero(row)}
        for string, row in zip(given.strings[0], weights, strict=True)
    }
    assert pieces["▁taxi"] == {"taxi": 1}, "a token of both languages is copied"
    assert pieces["▁tokyo"] == {"to": 0.5, "##kyo": 0.5}
    assert pieces["▁taxis"] == {"taxi": 0.5, "##s": 0.5}
    assert pieces["s"] == {"##s": 1}, "inside a word as well"


def test_ramen_draws_subwords_without_links_with_the_variance_of_its_source() -> None:
    embeddings = NewSubwords(standard=True).build(layers_of(PieceTeacher()), DistillConfig(), BITEXT, MonolingualText())[1]
    drawn = embeddings[3:]
    assert float(drawn.std()) == pytest.approx(SHAPE.width**-0.5, rel=0.1)
    assert abs(float(drawn.mean())) < 0.03


def test_links_of_words_are_shared_out_to_pieces_by_hand() -> None:
    """Half is even over all pairs of pieces. In order, the second of three pieces lies half in each of two."""
    np.testing.assert_allclose(piece_shares(3, 2), [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(piece_shares(2, 3), [[7 / 12 - 1 / 12, 1 / 3, 1 / 6], [1 / 6, 1 / 3, 1 / 2]])
    foreign, english = Words([(0,), (1, 2)], [[0], [1]] * 3), Words([(0,), (1, 2)], [[0], [1]] * 3)
    counts = piece_counts(foreign, english, (3, 3)).toarray()
    np.testing.assert_allclose(counts, [[3, 0, 0], [0, 2.25, 0.75], [0, 0.75, 2.25]])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7))
def test_each_piece_has_the_whole_count_of_its_word(n: int, m: int) -> None:
    np.testing.assert_allclose(piece_shares(n, m).sum(1), 1)
    np.testing.assert_allclose(piece_shares(n, m).sum(0), n / m)


def test_tokens_without_links_take_the_counts_of_related_ones() -> None:
    """`▁wasi` begins `▁wasikuna` (weights 1, 0) and contains `si` (weights 0, 1). The first English token starts a word."""
    weights = sparse.csr_array(np.array([[0, 0], [1.0, 0], [0, 1.0], [0, 0]]))
    counts = fallback_counts(weights, ["▁wasi", "▁wasikuna", "si", "▁xyz"], ["▁a", "b"]).toarray()
    np.testing.assert_allclose(counts, [[2, 1], [0, 0], [0, 0], [0, 0]])


def test_a_token_unlike_any_other_is_the_unknown_token() -> None:
    given = alignment_input()
    id_ = given.tokenizer.token_to_id(UNKNOWN)
    row = weights_of("trans-tokenization", given)[[id_]].toarray()[0]
    assert row.tolist() == [1.0, *[0.0] * (len(ENGLISH_PIECES) - 1)]


def test_neighbours_have_the_softmax_of_their_cosines() -> None:
    english = np.eye(12)
    foreign = np.zeros((2, 12))
    foreign[0, :3] = [0.8, 0.6, 0.0]
    weights = neighbour_weights(foreign, english).toarray()
    # The ten nearest: two with a cosine above 0, and the first eight of those at 0.
    cosines = np.array([0.8, 0.6, *[0.0] * 8])
    expected = np.exp(cosines / 0.1) / np.exp(cosines / 0.1).sum()
    np.testing.assert_allclose(weights[0, :10], expected)
    assert not weights[0, 10:].any()
    assert not weights[1].any(), "a token without a vector"


def test_a_rotation_is_found_from_the_dictionary() -> None:
    rng = np.random.default_rng(0)
    english = rng.normal(size=(20, 4))
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    foreign = english @ turned
    dictionary = np.stack([np.arange(8), np.arange(8)], axis=1)
    np.testing.assert_allclose(rotate(english, foreign, dictionary), turned, atol=1e-10)


def test_the_dictionary_holds_words_that_are_linked_most_with_each_other() -> None:
    texts = [[i, (i + 1) % 6] for i in range(6)] * 4
    assert mutual_dictionary(texts, [[5 - i for i in text] for text in texts], (6, 6)).tolist() == [[i, 5 - i] for i in range(6)]


def test_ofa_copies_shared_tokens_and_keeps_other_rows() -> None:
    weights = sparse.csr_array(np.array([[0.5, 0.5, 0], [0, 0.2, 0.8]]))
    assert copied_weights({0: 2}, weights).toarray().tolist() == [[0, 0, 1], [0, 0.2, 0.8]]
    assert copied_weights({}, weights).toarray().tolist() == weights.toarray().tolist()
    assert row_of(weights_of("ofa"), "taxi") == row_of(weights_of("focus"), "taxi") == {"taxi": 1}
    assert row_of(weights_of("wechsel"), "taxi") != {"taxi": 1}


def test_focus_mixes_copies_by_sparsemax_of_cosines() -> None:
    """Subwords 0 and 1 are shared, 2 is new with the cosines 0.8 and 0.6, 3 has no vector, and 4 neither but is shared."""
    vectors = np.array([[1.0, 0], [0, 1], [0.8, 0.6], [0, 0], [0, 0]])
    weights = focus_weights(vectors, {0: 5, 1: 3, 4: 2}, (5, 6)).toarray()
    expected = np.zeros((5, 6))
    expected[0, 5] = expected[1, 3] = expected[4, 2] = 1
    expected[2, [5, 3]] = 0.6, 0.4
    np.testing.assert_allclose(weights, expected)


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-3, 3)))
def test_sparsemax_is_the_projection_onto_the_simplex(scores: np.ndarray) -> None:
    """A point p is the projection of s if s - p is the same wherever p > 0, and nowhere larger."""
    points = sparsemax(scores)
    np.testing.assert_allclose(points.sum(1), 1)
    assert (points >= 0).all()
    for s, p in zip(scores, points, strict=True):
        thresholds = (s - p)[p > 1e-12]
        np.testing.assert_allclose(thresholds, thresholds[0], atol=1e-9)
        assert (s <= thresholds[0] + 1e-9)[p <= 1e-12].all()


@pytest.mark.parametrize("init", SIMALIGN)
def test_simalign_aligns_the_teachers_own_tokens(init: str) -> None:
    """The states of equal tokens are equal and all others orthogonal, so that each token is linked with itself."""
    bitext = Bitext("xx", "test", "human translation", BITEXT.english, BITEXT.english, ("",) * len(BITEXT))
    config = DistillConfig(init=init)
    student = load_initializer(init).student(PieceTeacher(), config, bitext, MonolingualText())
    torch.testing.assert_close(student.tower.token_embedding.weight, PieceTeacher().weights["token_embedding.weight"])
    assert student.tokenizer.get_vocab() == english_tokenizer().get_vocab()


def test_a_wrong_rule_or_a_teacher_that_lacks_something_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"expected --init simalign:RULE with the rule argmax, itermax, match, not 'max'"):
        load_initializer("simalign:max")
    given = alignment_input()

    class Bare:
        """A text encoder without states and places of tokens."""

    bare = AlignmentInput(Bare(), given.donated, given.tokenizer, given.subwords, given.config, BITEXT, given.text)  # type: ignore[arg-type]
    for init in ("trans-tokenization", "wechsel", "ofa"):
        with pytest.raises(HarnessError, match=r"does not say where its tokens stand .* --init ramen"):
            weights_of(init, bare)
    with pytest.raises(HarnessError, match=r"gives no states of its tokens .* --init ramen"):
        weights_of("simalign:match", bare)


def test_strings_of_tokens_are_comparable_between_tokenizers() -> None:
    assert token_strings(english_tokenizer())[:5] == ["", "", "", "▁dog", "▁cat"]
    assert token_strings(english_tokenizer())[9] == "xi"
    clip = Tokenizer(models.BPE({"dog</w>": 0, "do": 1, "Ã": 2, "Ã©</w>": 3}, [], end_of_word_suffix="</w>"))
    clip.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert token_strings(clip) == ["▁dog", "do", "Ã", "▁é"]
    bytes_of_words = Tokenizer(models.BPE({"Ġdog": 0, "s": 1}, []))
    bytes_of_words.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert token_strings(bytes_of_words) == ["▁dog", "s"]
    assert token_strings(alignment_input().tokenizer)[:4] == ["", "", "", "a"]
    assert shared_tokens(token_strings(clip), token_strings(bytes_of_words)) == {0: 0}


def test_tokens_of_one_word_lie_side_by_side() -> None:
    text = "p'acha-wan, é"
    spans = [(0, 0), (0, 2), (2, 6), (6, 7), (7, 10), (10, 11), (12, 13), (12, 13)]
    words = split_into_words([list(range(8))], [tuple(spans)], [text])
    assert words.types == [(1, 2), (3,), (4,), (5,), (6, 7)]
