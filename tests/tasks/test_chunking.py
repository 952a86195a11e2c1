"""Entities in sentences: spans, tags, phrase chunkers, marked tokens, and the towers trained with them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.builtins import CHUNKERS, TASKS, load_encoder
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Language, Spans
from harness.core.errors import HarnessError
from harness.core.protocols import Encoder, TaggedTask
from harness.distill.data.bitext import join_bitexts
from harness.distill.data.leakage import GuardedBitext
from harness.distill.data.subwords import subword_spans, train_tokenizer
from harness.distill.entity_marks import EntityMarks, entity_rows, mark_entities
from harness.distill.model.teacher import teacher_states
from harness.distill.model.tower import Encoded
from harness.distill.pipeline import distill
from harness.distill.recipe import Recipe
from harness.distill.teachers import check_teacher
from harness.retrieval.phrases import caption_phrases, chunk_phrases, mark_bitext_entities
from harness.retrieval.text_spans import map_spans, tokens_in_phrases
from harness.runtime.console import Console
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.command_line import harness
from tests.support.flickr30k_folders import write_lines
from tests.support.students import Training

TASK = Flickr30k()
ENGLISH = Language("en", "English", "Latn", 5, ())


def said(text: str, spans: Sequence[tuple[int, int]] | None) -> list[str] | None:
    return None if spans is None else [text[start:end] for start, end in spans]


# spans

WORDS = st.lists(st.text("aBcé男.,'", min_size=1, max_size=5), min_size=1, max_size=8)


@given(WORDS, st.data())
def test_a_span_keeps_its_letters_in_another_spelling(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    other = "  ".join(words).swapcase()
    (span,) = map_spans([(start, end)], text, other)
    assert other[slice(*span)].replace(" ", "").lower() == text[start:end].replace(" ", "").lower()


@pytest.mark.parametrize(
    ("text", "other", "words", "expected"),
    [
        ("`` Go '' , said [a man]", '"Go", said a man.', "a man", "a man"),
        ("A dog -LRB- brown -RRB- runs", "A dog (brown) runs", "brown", "brown"),
        ("A don&apos;t sign", "A don't sign", "sign", "sign"),
        ("a man", "two dogs", "man", ""),
    ],
)
def test_punctuation_may_differ(text: str, other: str, words: str, expected: str) -> None:
    at = text.index(words)
    (span,) = map_spans([(at, at + len(words))], text, other)
    assert other[slice(*span)] == expected


def test_a_token_belongs_to_a_phrase_by_its_letters_alone() -> None:
    text = "A man in red"
    assert tokens_in_phrases([(0, 1), (1, 5), (5, 8), (8, 12), (0, 0)], [(0, 5), (9, 12)], text) == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert tokens_in_phrases([(1, 2)], [(0, 5)], text) == [False], "a blank alone"


# tags


@pytest.fixture
def tagged_folder(flickr30k_folder: Path) -> Path:
    """The small Flickr30k folder with English tags on one of two training images, and German tags on the other."""
    write_lines(flickr30k_folder / "Sentences" / "11.txt", ["[/EN#7/other caption] 1 of [/EN#0/notvisual 11] .", "x"])
    write_lines(flickr30k_folder / "Sentences_de" / "12.txt", ["[/EN#7/other Bildtext von] [/EN#8/people 12] ."])
    return flickr30k_folder


def test_bitext_finds_the_tags_of_either_side(tagged_folder: Path) -> None:
    bitext = TASK.load_bitext(tagged_folder, "de")
    assert (bitext.english_entities, bitext.foreign_entities) == ((), ()), "nobody asked"
    told = TASK.tag_bitext(tagged_folder, bitext)
    assert [said(*pair) for pair in zip(told.english, told.english_entities, strict=True)] == [["Caption"], None, None]
    assert [said(*pair) for pair in zip(told.foreign, told.foreign_entities, strict=True)] == [None, ["Bildtext von", "12"], None]
    assert told.digest() == bitext.digest()
    assert told.take([1]).foreign_entities == told.foreign_entities[1:2]


def test_languages_that_share_a_tower_keep_their_tags(tagged_folder: Path) -> None:
    parts = [TASK.tag_bitext(tagged_folder, TASK.load_bitext(tagged_folder, lang)) for lang in ("de", "qu")]
    whole = join_bitexts(parts, 2)
    rows = zip(whole.foreign, whole.foreign_entities, strict=True)
    assert {text: said(text, spans) for text, spans in rows if spans} == {"Bildtext von 12.": ["Bildtext von", "12"]}


def test_pairs_of_no_image_have_no_tags(tagged_folder: Path) -> None:
    bitext = Bitext("de", "x", "unstated", ("Caption 1 of 11.",), ("Bildtext",), ("",))
    assert TASK.tag_bitext(tagged_folder, bitext).english_entities == (None,)


def test_the_chunker_marks_untagged_english_but_no_translations(tagged_folder: Path) -> None:
    found = mark_bitext_entities(TASK.load_bitext(tagged_folder, "de"), TASK, tagged_folder, "simple")
    assert [said(*pair) for pair in zip(found.english, found.english_entities, strict=True)] == [
        ["Caption"],
        ["Caption 1", "12"],
        ["Caption 1", "31"],
    ]
    assert [spans is None for spans in found.foreign_entities] == [True, False, True]
    assert found.notes[-1] == (
        "entities: 1 English sentences told by tags, 2 by the chunker simple; 1 de ones by tags, 2 by the plan"
    )


def test_without_tags_the_chunker_marks_all_sentences(flickr30k_folder: Path) -> None:
    bitext = TASK.load_bitext(flickr30k_folder, "de")
    task = TASKS.load("xtd")()
    assert not isinstance(task, TaggedTask)
    found = mark_bitext_entities(bitext, task, flickr30k_folder, "simple")
    assert None not in found.english_entities
    assert set(found.foreign_entities) == {None}


# chunkers


def chunker_of(spans: Sequence[Spans], asked: list[str]) -> Callable[[str], Any]:
    """Return a replacement of `CHUNKERS.load` with a chunker that returns fixed spans and appends its texts to `asked`."""

    def chunk(texts: Sequence[str], _: Language) -> Sequence[Spans]:
        asked.extend(texts)
        return spans

    return lambda _: lambda _: chunk


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([((0, 99),)], "chunker mine gave the character span 0 to 99 of a text of 5 characters"),
        ([((3, 3),)], "gave the character span 3 to 3"),
        ([((-1, 3),)], "gave the character span -1 to 3"),
        ([(), ()], "gave phrases of 2 texts for 1"),
    ],
)
def test_a_chunker_must_return_spans_of_its_texts(spans: list[Spans], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHUNKERS, "load", chunker_of(spans, []))
    with pytest.raises(HarnessError, match=message):
        chunk_phrases("mine", ["A dog"], ENGLISH)


def test_a_chunker_receives_only_untagged_texts(tagged_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(CHUNKERS, "load", chunker_of([((0, 7),)], asked))
    retrieval = replace(TASK.load(tagged_folder, "en", "val"), phrases=(None, ("of  21",)))
    assert caption_phrases(retrieval, TASK, "mine:7") == (("Caption",), ("of  21",))
    assert asked == ["Caption 0 of 21."]


def test_the_simple_chunker_takes_no_argument() -> None:
    with pytest.raises(HarnessError, match="simple takes no argument, not 'x'"):
        chunk_phrases("simple:x", ["a"], ENGLISH)


def test_a_chunker_is_loaded_from_a_plug_in_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def longest(argument):\n"
        "    def chunk(texts, language):\n"
        "        words = [max(text.split(), key=len) for text in texts]\n"
        "        return [[(text.index(word), text.index(word) + int(argument))] for text, word in zip(texts, words)]\n"
        "    return chunk\n"
    )
    assert chunk_phrases(f"{file}:longest:3", ["a yellow dog"], ENGLISH) == [((2, 5),)]


def test_the_list_of_chunkers_includes_plug_ins(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from harness import register_chunker\n\n\n"
        'def first(argument):\n    """First words."""\n    return lambda texts, language: [[(0, 1)] for _ in texts]\n\n\n'
        'register_chunker("first", first)\n'
    )
    done = harness("list", "chunkers", "--plugin", str(file), store=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("first", "First words.", "simple", "spacy:MODEL"):
        assert words in done.stdout


# spaCy

needs_spacy = pytest.mark.skipif(
    importlib.util.find_spec("spacy") is None, reason="spaCy is not installed: pip install '.[spacy]'"
)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a spaCy pipeline of a language. Its parser knows a few words and attaches each to the noun on its right."""
    import spacy
    from spacy.language import Language as Pipeline
    from spacy.tokens import Doc

    kinds = {"dog": "NOUN", "hat": "NOUN", "hund": "NOUN", "it": "PRON", "a": "DET", "red": "ADJ", "ein": "DET"}

    @Pipeline.component("few_words")
    def parse(doc: Doc) -> Doc:
        nouns = [token.i for token in doc if kinds.get(token.lower_) in ("NOUN", "PRON")]
        for token in doc:
            token.pos_ = kinds.get(token.lower_, "VERB")
            token.head = (
                doc[next((noun for noun in nouns if noun >= token.i), token.i)] if token.pos_ in ("DET", "ADJ") else token
            )
            token.dep_ = {"NOUN": "dobj" if doc.lang_ == "en" else "sb", "PRON": "nsubj", "VERB": "ROOT"}.get(token.pos_, "det")
        return doc

    def saved(lang: str) -> Path:
        folder = tmp_path_factory.mktemp("spacy") / lang
        model = spacy.blank(lang)
        model.add_pipe("few_words")
        model.to_disk(folder)
        return folder

    return saved


@needs_spacy
def test_spacy_returns_noun_chunks_without_pronouns(pipeline: Callable[[str], Path]) -> None:
    texts = ["It wears a red hat near a dog .", "", "Runs ."]
    found = chunk_phrases(f"spacy:{pipeline('en')}", texts, ENGLISH)
    assert [said(*pair) for pair in zip(texts, found, strict=True)] == [["a red hat", "a dog"], [], []]


@needs_spacy
def test_each_language_uses_its_own_model(pipeline: Callable[[str], Path]) -> None:
    both = f"spacy:{pipeline('en')},{pipeline('de')}"
    german = Language("de", "German", "Latn", 5, ())
    assert said("Ein Hund", chunk_phrases(both, ["Ein Hund"], german)[0]) == ["Ein Hund"]
    assert said("a dog", chunk_phrases(both, ["a dog"], replace(ENGLISH, code="en-GB"))[0]) == ["a dog"]
    with pytest.raises(HarnessError, match="has models for de, en and none for Quechua: add a model for qu after a comma"):
        chunk_phrases(both, ["hatun allqu"], Language("qu", "Quechua", "Latn", 1, ()))


@needs_spacy
def test_a_model_without_noun_chunks_is_named(tmp_path: Path) -> None:
    import spacy

    for lang, name in (("en", "English"), ("cs", "Czech")):  # no parser; no rules in this language
        spacy.blank(lang).to_disk(tmp_path / lang)
        with pytest.raises(HarnessError, match=f"{lang}_pipeline gives no noun chunks: use a model with a parser"):
            chunk_phrases(f"spacy:{tmp_path / lang}", ["a dog"], Language(lang, name, "Latn", 5, ()))


@needs_spacy
def test_a_missing_model_is_named() -> None:
    with pytest.raises(
        HarnessError, match=r"spacy:no_such_model cannot be loaded \(.*E050.*\): python -m spacy download no_such"
    ):
        chunk_phrases("spacy:no_such_model", ["a dog"], ENGLISH)
    assert chunk_phrases("spacy:no_such_model", [], ENGLISH) == [], "with nothing to chunk, nothing is loaded"


def test_without_spacy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tasks.entities.chunking.find_spec", lambda _: None)
    with pytest.raises(HarnessError, match=r"spacy:en_core_web_sm needs spaCy: pip install 'flickr30k-harness\[spacy\]'"):
        chunk_phrases("spacy:en_core_web_sm", ["a dog"], ENGLISH)
    with pytest.raises(HarnessError, match="spacy: names no model: expected spacy:MODEL"):
        chunk_phrases("spacy", ["a dog"], ENGLISH)


# tokens


@pytest.fixture(scope="module")
def sample_pairs(sample_folder: Path) -> Bitext:
    return mark_bitext_entities(TASK.load_bitext(sample_folder, "de").take(range(0, 4500, 60)), TASK, sample_folder, "simple")


def test_training_sentences_of_the_sample_have_english_tags_only(sample_pairs: Bitext) -> None:
    assert sample_pairs.notes[-1].startswith(
        "entities: 75 English sentences told by tags, 0 by the chunker simple; 0 de ones by tags"
    )


def marked_text(tokens: Spans, row: np.ndarray, text: str) -> str:
    """Return the characters of marked tokens, without blanks."""
    places = {place for span, on in zip(tokens, row, strict=True) if on for place in range(*span)}
    return "".join(text[place] for place in sorted(places) if not text[place].isspace())


def test_marked_tokens_are_those_of_the_phrases(sample_pairs: Bitext, tmp_path: Path) -> None:
    teacher, tokenizer = load_encoder("sample", "cpu"), train_tokenizer(sample_pairs.english, 200)
    # The student's side is tagged too here, as Japanese would be.
    bitext = replace(sample_pairs, foreign=sample_pairs.english, foreign_entities=sample_pairs.english_entities)
    states = teacher_states(teacher, bitext.english, Store(tmp_path), lambda _: None)
    marks = mark_entities(bitext, teacher, states, tokenizer, 77)  # type: ignore[arg-type]
    sides = (
        (teacher.locate_tokens(bitext.english, "en"), marks.english),  # type: ignore[attr-defined]
        (subword_spans(tokenizer, bitext.foreign, 77), marks.foreign),
    )
    for located, rows in sides:
        for tokens, row, text, phrases in zip(located, rows, bitext.english, bitext.english_entities, strict=True):
            assert phrases is not None
            assert marked_text(tokens, row, text) == "".join(text[start:end] for start, end in phrases).replace(" ", "")
            assert not row[0]
            assert not row[-1]


def test_a_batch_has_nan_for_sentences_without_marks() -> None:
    rows = tuple(entity_rows([((0, 1), (2, 3)), ((0, 1),)], [((2, 3),), None], ["a b", "c"]))
    sides = (Encoded(torch.zeros(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]]), torch.zeros(2, 4)),) * 2
    student, teacher = EntityMarks(rows, (rows[1], rows[0])).on([0, 1], *sides)
    assert teacher.entities is not None
    assert student.entities is not None
    assert teacher.entities.nan_to_num(9).tolist() == [[0, 1, 0], [9, 9, 9]]
    assert student.entities.nan_to_num(9).tolist() == [[9, 9, 9], [0, 1, 0]]


def test_a_teacher_with_spans_of_other_tokens_is_refused(sample_pairs: Bitext, tmp_path: Path) -> None:
    teacher = load_encoder("sample", "cpu")
    states = teacher_states(teacher, sample_pairs.english, Store(tmp_path), lambda _: None)
    longer = replace(states, lengths=states.lengths + 1)
    with pytest.raises(HarnessError, match=r"spans \(locate_tokens\) and states"):
        mark_entities(sample_pairs, teacher, longer, train_tokenizer(sample_pairs.foreign, 200), 77)  # type: ignore[arg-type]


# towers


def recipe(folder: Path, chunker: str = "simple", **choices: Any) -> Recipe:
    bitext = TASK.load_bitext(folder, "de").take(range(80))
    config = DistillConfig(**{"steps": 4, "batch": 8, "vocabulary": 200} | choices)
    tag = partial(mark_bitext_entities, task=TASK, data=folder, chunker=chunker)
    guarded = (GuardedBitext(bitext, len(bitext), 0),)
    return Recipe(config.for_arm(config.objective), load_encoder("sample", "cpu"), guarded, tag)


@pytest.mark.parametrize("beside", ["", " + 0.5*kd-relation"])
def test_towers_of_weight_one_are_those_of_ot_token_to_the_bit(beside: str, sample_folder: Path, tmp_path: Path) -> None:
    weights = {}
    for objective, weight in (("ot-token", 1), ("ot-entity", 1), ("ot-entity", 2)):
        made = recipe(sample_folder, objective=objective + beside, entity_weight=weight)
        distill(made, "cpu", Store(tmp_path), Console())
        weights[objective, weight] = (Store(tmp_path).tower(made.digest) / "tower.safetensors").read_bytes()
    assert weights["ot-entity", 1] == weights["ot-token", 1]
    assert weights["ot-entity", 2] != weights["ot-token", 1]


@pytest.mark.parametrize("told", [True, False])
def test_an_interrupted_training_with_marks_resumes(told: bool, tmp_path: Path) -> None:
    training = Training("ot-entity", entity_weight=4)
    draw = np.random.default_rng(0)
    english = tuple(draw.integers(0, 2, length).astype(np.float32) for length in training.teacher.lengths)
    foreign = tuple(
        draw.integers(0, 2, len(text)).astype(np.float32) if told else np.array([np.nan], np.float32) for text in training.texts
    )
    training.marks = EntityMarks(english, foreign)
    whole, resumed = training.student(), training.student()
    losses = training.run(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        training.run(training.student(), tmp_path / "b", interrupt_at=5)
    assert training.run(resumed, tmp_path / "b") == losses
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert losses != Training("ot-token").run(training.student(), tmp_path / "c")


def test_entity_marks_are_part_of_a_digest_only_if_they_are_read(sample_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("def none(argument):\n    return lambda texts, language: [[] for _ in texts]\n")
    nothing = f"{tmp_path / 'none.py'}:none"
    plain, entity = (recipe(sample_folder, objective=objective) for objective in ("ot-token", "ot-entity"))
    # A weight names another tower of ot-entity, and no other of ot-token.
    assert recipe(sample_folder, objective="ot-token", entity_weight=5).digest == plain.digest
    assert recipe(sample_folder, objective="ot-entity", entity_weight=5).digest != entity.digest
    # So does a chunker, where it has a say.
    assert recipe(sample_folder, nothing, objective="ot-entity").digest == entity.digest, "every sentence has tags"
    bare = (GuardedBitext(replace(plain.guarded[0].bitext, image_ids=("",) * 80), 80, 0),)
    told = [replace(recipe(sample_folder, each, objective="ot-entity"), guarded=bare).digest for each in ("simple", nothing)]
    assert len({*told, entity.digest}) == 3
    plainly = [replace(recipe(sample_folder, each, objective="ot-token"), guarded=bare).digest for each in ("simple", nothing)]
    assert plainly[0] == plainly[1]


def test_a_teacher_without_token_spans_is_refused_before_training() -> None:
    class Mute:
        name = "mute"

        def encode_tokens(self, texts: Sequence[str], lang: str) -> None: ...

        def donate_layers(self) -> None: ...

    mute = cast(Encoder, Mute())
    check_teacher(DistillConfig(objective="ot-token"), mute)
    with pytest.raises(HarnessError, match=r"mute does not give the character spans .*\(locate_tokens\), and kd-mse \+ ot-e"):
        check_teacher(DistillConfig(objective="kd-mse + ot-entity"), mute)
