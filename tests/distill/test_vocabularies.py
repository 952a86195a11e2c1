"""The two vocabularies of a student with the teacher's layers, and new pieces of a tokenizer made for another language."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import sparse
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from harness.core.builtins import load_encoder
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Floats
from harness.core.errors import HarnessError
from harness.distill.data.bitext import NO_TEXT
from harness.distill.data.pieces import fallback_words, with_new_pieces
from harness.distill.data.subwords import tokenize
from harness.distill.initializers.aligned import mix_embeddings
from harness.distill.initializers.vocabularies import TeacherTokens
from harness.distill.model.student import new_student
from harness.distill.model.tower import DonatedLayers, TextTower, TowerConfig

ENGLISH = ["a dog runs in the snow", "a woman plays the red guitar", "two dogs run", "the snow is red"] * 4
ARABIC = ["كلب يجري", "امرأة تعزف", "كلب يجري", "كلب تعزف"] * 4


def word_piece() -> Tokenizer:
    """Return a WordPiece tokenizer with some English words and the letters of both scripts."""
    letters = sorted({letter for text in [*ENGLISH, *ARABIC] for letter in text.replace(" ", "")})
    words = ["[UNK]", "[CLS]", "[SEP]", "dog", "##s", "run", "snow", "woman", *letters, *(f"##{letter}" for letter in letters)]
    ids = {word: id_ for id_, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    framing = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=framing)
    return tokenizer


def byte_pairs() -> Tokenizer:
    """Return the sample teacher's byte-pair encoding, which was learned from English."""
    donated = load_encoder("sample", "cpu").donate_layers()  # type: ignore[attr-defined]
    assert donated.tokenizer
    return Tokenizer.from_str(donated.tokenizer.to_str())


@pytest.mark.parametrize("make", [word_piece, byte_pairs])
def test_words_of_another_script_get_pieces_and_others_are_split_as_before(make: type[Tokenizer]) -> None:
    old = make()
    first = old.get_vocab_size()
    new, parts = with_new_pieces(old, ARABIC, 50, first)
    assert parts
    assert new.get_vocab_size() == first + len(parts)
    assert [new.encode(text).ids for text in ENGLISH] == [old.encode(text).ids for text in ENGLISH]
    for text in ARABIC:
        ids = new.encode(text).ids
        assert len(ids) < len(old.encode(text).ids) / 1.5
        # New pieces stand for the pieces that they replace, in place.
        replaced = [part for id_ in ids for part in (parts[id_ - first] if id_ >= first else [id_])]
        assert replaced == old.encode(text).ids


@pytest.mark.parametrize("make", [word_piece, byte_pairs])
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_no_more_pieces_than_allowed(make: type[Tokenizer], limit: int) -> None:
    _, parts = with_new_pieces(make(), ARABIC, limit, 10_000)
    assert len(parts) <= limit


@pytest.mark.parametrize("make", [word_piece, byte_pairs])
def test_neither_another_run_nor_the_order_of_texts_changes_a_piece(make: type[Tokenizer]) -> None:
    once = with_new_pieces(make(), ARABIC, 50, 10_000)
    for texts in (ARABIC, ARABIC[::-1], ARABIC):
        again = with_new_pieces(make(), texts, 50, 10_000)
        assert (again.tokenizer.to_str(), again.parts) == (once.tokenizer.to_str(), once.parts)


def test_ids_of_new_pieces_follow_the_embeddings_and_not_the_vocabulary() -> None:
    new, parts = with_new_pieces(word_piece(), ARABIC, 5, 1000)
    assert {id_ for text in ARABIC for id_ in new.encode(text).ids if id_ >= 1000} <= set(range(1000, 1000 + len(parts)))
    assert max(new.get_vocab().values()) == 999 + len(parts)


def test_an_unknown_word_falls_back_and_a_word_of_pieces_does_not() -> None:
    tokenizer = word_piece()
    assert fallback_words(tokenizer, ["dogs 犬犬", "dog 犬犬", "كلب"]) == {"犬犬": 2, "كلب": 1}
    new, parts = with_new_pieces(tokenizer, ["犬犬 犬犬"], 10, 500)
    unknown = tokenizer.token_to_id("[UNK]")
    assert all(ids == [unknown] for ids in parts)
    assert unknown not in new.encode("犬犬").ids


def test_another_model_gets_no_pieces() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    assert with_new_pieces(tokenizer, ["bcd bcd"], 10, 2) == (tokenizer, [])


WIDTH = 8


class WordPieceTeacher:
    """A text encoder with random layers and the tokenizer of `word_piece`; its embeddings have three rows without a token."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.own = word_piece()
        rows = self.own.get_vocab_size() + 3
        shape = TowerConfig(vocab_size=rows, width=WIDTH, layers=1, heads=2, mlp_width=16, joint_dim=4, max_length=32)
        self.tower = TextTower(shape).eval()

    def fingerprint(self) -> str:
        return "teacher"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return self.tower.embed(tokenize(self.own, texts, 32)).numpy()

    def donate_layers(self) -> DonatedLayers:
        weights = {name: value.clone() for name, value in self.tower.state_dict().items()}
        return DonatedLayers(self.tower.config, weights, 1, 2, lambda texts: tokenize(self.own, texts, 32), self.own)


BITEXT = Bitext("ar", "test", "human translation", tuple(ENGLISH), tuple(ARABIC), ("",) * len(ENGLISH))


def test_the_untrained_student_that_keeps_the_tokenizer_is_the_teacher() -> None:
    teacher = WordPieceTeacher()
    student, tokenizer = new_student(teacher, DistillConfig(init="keep-tokenizer"), BITEXT)
    found = student.eval().embed(tokenize(tokenizer, ENGLISH, 32)).numpy()
    np.testing.assert_array_equal(found, teacher.encode_texts(ENGLISH, "en"))


def test_the_sample_s_student_that_keeps_the_tokenizer_is_the_english_tower() -> None:
    teacher = load_encoder("sample", "cpu")
    config = DistillConfig(init="keep-tokenizer", pooling="last")
    student, tokenizer = new_student(teacher, config, BITEXT)
    found = student.eval().embed(tokenize(tokenizer, ENGLISH[:4], student.config.max_length)).numpy()
    np.testing.assert_allclose(found, teacher.encode_texts(ENGLISH[:4], "en"), atol=1e-5)


def test_a_teacher_without_a_tokenizer_file_is_refused() -> None:
    donated = DonatedLayers(WordPieceTeacher().tower.config, {}, None, None, lambda _: [])
    with pytest.raises(HarnessError, match=r"tokenizer cannot be kept .* use --init random"):
        TeacherTokens(adds_pieces=False).build(donated, DistillConfig(), BITEXT, NO_TEXT)


@pytest.mark.parametrize("init", ["ot-teacher-tokens", "ibm1-teacher-tokens"])
def test_aligned_teacher_tokens_are_mixed_and_new_pieces_replaced(init: str) -> None:
    teacher = WordPieceTeacher()
    known = teacher.donate_layers().weights["token_embedding.weight"]
    kept, tokenizer = new_student(teacher, DistillConfig(init=init, share=0.0), BITEXT)
    mixed, _ = new_student(teacher, DistillConfig(init=init, share=0.5), BITEXT)
    rows, before, after = len(known), kept.token_embedding.weight.detach(), mixed.token_embedding.weight.detach()
    assert len(before) > rows, "the Arabic words have pieces of their own"
    torch.testing.assert_close(before[:rows], known, atol=1e-6, rtol=0)
    used = sorted({id_ for text in ARABIC for id_ in tokenizer.encode(text).ids if 2 < id_ < rows})
    idle = sorted(set(range(rows)) - {id_ for text in ARABIC for id_ in tokenizer.encode(text).ids})
    torch.testing.assert_close(after[idle], known[idle], atol=0, rtol=0)
    torch.testing.assert_close(after[[1, 2]], known[[1, 2]], atol=0, rtol=0)
    assert all(not torch.allclose(after[id_], known[id_]) for id_ in used)
    torch.testing.assert_close(after[rows:], before[rows:], atol=1e-6, rtol=0)


def test_mixing_keeps_the_distance_from_the_mean_and_without_rescaling_is_the_plain_mean() -> None:
    rng = np.random.default_rng(0)
    known, before = rng.normal(size=(6, 4)) + 1, rng.normal(size=(2, 4)) + 1
    weights = sparse.csr_array(np.array([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0]]))
    shares = np.array([0.75, 1.0])
    plain = mix_embeddings(weights, known, before, shares, rescale=False)
    np.testing.assert_allclose(plain[0], 0.75 * (known[0] + known[1]) / 2 + 0.25 * before[0])
    np.testing.assert_allclose(plain[1], known[2])
    centre = known.mean(0)
    found = np.linalg.norm(mix_embeddings(weights, known, before, shares, rescale=True) - centre, axis=1)
    usual = np.median(np.linalg.norm(known - centre, axis=1))
    np.testing.assert_allclose(found, [np.linalg.norm(before[0] - centre), usual])
