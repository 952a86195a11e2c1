"""Files of Flickr30k Entities: handmade special cases, refused files, and the round trip with the sample."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.tasks.entities import corpus as entities
from harness.tasks.entities.corpus import (
    Annotation,
    TaggedPhrase,
    TaggedSentence,
    find_sentence_folder,
    open_entities_corpus,
    parse_sentence,
    read_annotation,
    read_image_annotation,
    read_image_sentences,
    read_sentences,
    read_unrelated,
)
from harness.tasks.sample.caption_plans import mentions_by_role
from harness.tasks.sample.dataset import FIRST_CHAIN, SampleImage, compose_sample
from harness.tasks.sample.grammar import TRANSLATIONS
from harness.tasks.sample.grammar.sentences import Phrase as Said
from harness.tasks.sample.grammar.sentences import Sentence as Saying
from harness.tasks.sample.grammar.sentences import tokenized_text
from tests.support.flickr30k_folders import write_lines

SIZE = "<size><width>50</width><height>40</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>"


def markup(sentence: TaggedSentence) -> str:
    """Return a sentence in the markup of the files, the inverse of reading."""
    line, at = "", 0
    for phrase in sentence.phrases:
        twin = "" if phrase.twin is None else f"{phrase.twin}:"
        line += sentence.text[at : phrase.start] + f"{twin}[/EN#{phrase.chain}/{'/'.join(phrase.types)} {phrase.words}]"
        at = phrase.start + len(phrase.words)
    return line + sentence.text[at:]


def xml(tmp_path: Path, *objects: str, size: str = SIZE) -> Path:
    path = tmp_path / "7.xml"
    lines = [
        "<annotation>",
        "<filename>7.jpg</filename>",
        size,
        *(f"<object>{each}</object>" for each in objects),
        "</annotation>",
    ]
    write_lines(path, lines)
    return path


# sentences


def test_a_tag_may_have_several_types_and_words_at_any_position() -> None:
    line = "[/EN#31/people/clothing Two men] , [/EN#0/notvisual one] in [/EN#5/clothing a hat]"
    assert parse_sentence(line) == TaggedSentence(
        "Two men , one in a hat",
        (
            TaggedPhrase("Two men", 31, ("people", "clothing"), 0),
            TaggedPhrase("one", 0, ("notvisual",), 10),
            TaggedPhrase("a hat", 5, ("clothing",), 17),
        ),
    )
    assert [phrase.words for phrase in parse_sentence(line).entities] == ["Two men", "a hat"]


def test_japanese_tags_have_the_number_of_their_english_phrase() -> None:
    sentence = parse_sentence("2:[/EN#19/clothing ピンクの服]を着た1:[/EN#18/people/other 二人]が歩く。")
    assert sentence.text == "ピンクの服を着た二人が歩く。"
    assert [(phrase.twin, phrase.chain, phrase.start) for phrase in sentence.phrases] == [(2, 19, 0), (1, 18, 8)]


def test_a_blank_line_counts_as_a_caption(tmp_path: Path) -> None:
    write_lines(tmp_path / "7.txt", ["[/EN#1/people A] b", "", "c"])
    assert [sentence.text for sentence in read_sentences(tmp_path / "7.txt")] == ["A b", "", "c"]


@pytest.mark.parametrize(
    "line",
    [
        "[/EN#1/people A man",
        "A man]",
        "[/EN#1/people A [/EN#2/other b] c]",
        "[/EN#1/people ]",
        "[/EN#1/people]",
        "[/EN#1 A man]",
        "[/EN#x/people A man]",
        "[/EN#1/ A man]",
        "[/EN1/people A man]",
        "[EN#1/people A man]",
        "[/EN#-1/people A man]",
        "[/EN#1/people  A man]",
        "[/EN#1/people A man ]",
        "[/EN#１/people A man]",
        "[/EN#1234567890123456789/people A man]",
    ],
)
def test_an_incomplete_tag_is_an_error_with_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "7.txt"
    write_lines(path, ["[/EN#1/people Fine] .", line])
    with pytest.raises(HarnessError, match=rf"^{re.escape(str(path))}, line 2: bracket outside any tag near"):
        read_sentences(path)


def test_a_file_that_is_not_utf8_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "7.txt").write_bytes(b"fine\n[/EN#1/people \xff] .\n")
    with pytest.raises(HarnessError, match=r"7\.txt is not UTF-8: line 2"):
        read_sentences(tmp_path / "7.txt")


WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="[]"), min_size=1, max_size=6)
PLAIN = st.lists(WORD, max_size=3).map(" ".join)
TAGGED = st.builds(
    lambda words, chain, types, twin: (words, chain, tuple(types), twin),
    st.lists(WORD, min_size=1, max_size=3).map(" ".join),
    st.integers(0, 10**18 - 1),
    st.lists(st.sampled_from(["people", "other", "bodyparts"]), min_size=1, max_size=3),
    st.none() | st.integers(1, 99),
)


@given(st.lists(st.tuples(PLAIN, TAGGED), max_size=6), PLAIN)
def test_written_sentences_are_read_back(
    parts: list[tuple[str, tuple[str, int, tuple[str, ...], int | None]]], tail: str
) -> None:
    text, phrases = "", []
    for plain, (words, chain, types, twin) in parts:
        text += f"{plain} " if plain else ""
        phrases.append(TaggedPhrase(words, chain, types, len(text), twin))
        text += words + " "
    sentence = TaggedSentence(text + tail, tuple(phrases))
    assert parse_sentence(markup(sentence)) == sentence


@given(st.text(alphabet="[]/EN#19peol: 男", max_size=40))
def test_any_line_is_read_back_to_the_letter_or_refused(line: str) -> None:
    try:
        sentence = parse_sentence(line)
    except ValueError:
        return
    assert markup(sentence) == line
    assert not set("[]") & set(sentence.text)
    assert all(sentence.text[p.start : p.start + len(p.words)] == p.words for p in sentence.phrases)


# annotations


def test_boxes_count_from_zero_and_end_before_their_right_and_bottom(tmp_path: Path) -> None:
    read = read_annotation(xml(tmp_path, "<name>3</name>" + BOX))
    assert read == Annotation(50, 40, ((3, (0, 1, 50, 40)),), (), ())


def test_an_object_may_have_several_chains_and_a_chain_several_boxes(tmp_path: Path) -> None:
    other = BOX.replace(">1<", ">9<")
    read = read_annotation(xml(tmp_path, "<name>3</name><name>4</name>" + BOX, "<name>4</name>" + other))
    assert read.boxes_of(3) == ((0, 1, 50, 40),)
    assert read.boxes_of(4) == ((0, 1, 50, 40), (8, 1, 50, 40))
    assert read.boxes_of(5) == ()


def test_a_chain_may_be_the_scene_or_have_no_box(tmp_path: Path) -> None:
    scene, nothing = (
        f"<name>{name}</name><scene>{is_scene}</scene><nobndbox>1</nobndbox>" for name, is_scene in ((1, 1), (2, 0))
    )
    boxed = "<name>3</name><scene>1</scene><nobndbox>0</nobndbox>" + BOX
    read = read_annotation(xml(tmp_path, scene, nothing, boxed))
    assert (read.scenes, read.unboxed, [chain for chain, _ in read.boxes]) == ((1, 3), (1, 2), [3])


def test_a_box_is_clipped_at_the_edge(tmp_path: Path) -> None:
    over = "<name>3</name><bndbox><xmin>0</xmin><ymin>1</ymin><xmax>51</xmax><ymax>900</ymax></bndbox>"
    assert read_annotation(xml(tmp_path, over)).boxes_of(3) == ((0, 0, 50, 40),)


def test_an_annotation_may_be_empty(tmp_path: Path) -> None:
    assert read_annotation(xml(tmp_path)) == Annotation(50, 40, (), (), ())


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (BOX, "line 5: object 2: it has no name"),
        ("<name>x</name>" + BOX, "line 5: object 2: name is 'x'"),
        ("<name>3</name>", "line 5: object 2: it has neither a bndbox nor nobndbox 1"),
        ("<name>3</name><nobndbox>0</nobndbox>", "line 5: object 2: it has neither"),
        ("<name>3</name><nobndbox>1</nobndbox>" + BOX, "line 5: object 2: it has both a bndbox and nobndbox 1"),
        ("<name>3</name>" + BOX.replace("<ymax>40</ymax>", ""), "line 5: object 2: there is no ymax"),
        ("<name>3</name>" + BOX.replace(">50<", ">5.5<"), "line 5: object 2: xmax is '5.5'"),
        ("<name>3</name>" + BOX.replace(">50<", ">0<"), "line 5: object 2: the box 1, 2, 0, 40 contains no pixel"),
        (
            "<name>3</name>" + BOX.replace(">2<", ">41<"),
            "line 5: object 2: the box 1, 41, 50, 40 contains no pixel of the 50 x 40",
        ),
        ("<name>3</nome>", r"line 5: not XML \(mismatched tag\)"),
    ],
)
def test_a_broken_object_is_an_error_with_file_and_line(broken: str, why: str, tmp_path: Path) -> None:
    path = xml(tmp_path, "<name>3</name>" + BOX, broken)
    with pytest.raises(HarnessError, match=rf"^{re.escape(str(path))}, {why}"):
        read_annotation(path)


@pytest.mark.parametrize("size", ["", "<size><width>50</width></size>", SIZE.replace("50", "0"), SIZE.replace("50", "wide")])
def test_a_picture_without_a_size_is_an_error(size: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"7\.xml, line \d: size: "):
        read_annotation(xml(tmp_path, size=size))


def test_an_entity_expansion_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "7.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>')
    with pytest.raises(HarnessError, match=r"7\.xml, line 1: not an XML file of Flickr30k Entities"):
        read_annotation(path)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 10**9), min_size=1, max_size=3),
            st.none() | st.tuples(st.integers(0, 49), st.integers(0, 39), st.integers(1, 50), st.integers(1, 40)),
        ),
        max_size=5,
    )
)
def test_generated_annotations_are_read_back(tmp_path_factory: pytest.TempPathFactory, objects: list) -> None:  # type: ignore[type-arg]
    expected, bodies = [], []
    for chains, corner in objects:
        names = "".join(f"<name>{chain}</name>" for chain in chains)
        if corner is None:
            bodies.append(names + "<scene>0</scene><nobndbox>1</nobndbox>")
            continue
        left, top, width, height = corner
        box = left, top, min(left + width, 50), min(top + height, 40)
        expected += [(chain, box) for chain in chains]
        sides = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
        bodies.append(names + f"<bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in sides)}</bndbox>")
    assert read_annotation(xml(tmp_path_factory.mktemp("xml"), *bodies)).boxes == tuple(expected)


# the list of unrelated captions


def test_unrelated_captions_count_from_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "UNRELATED_CAPTIONS", ["# format: <imageID> <sentence number>", "133 5", " 2190 1 "])
    assert read_unrelated(tmp_path) == {("133", 4), ("2190", 0)}


def test_no_list_of_unrelated_captions_means_none(tmp_path: Path) -> None:
    assert read_unrelated(tmp_path) == frozenset()


@pytest.mark.parametrize("line", ["133", "133 0", "133 5 6", "x 5"])
def test_a_broken_row_of_unrelated_captions_is_an_error_with_its_line(line: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "UNRELATED_CAPTIONS", ["133 5", line])
    with pytest.raises(HarnessError, match="UNRELATED_CAPTIONS, line 2: "):
        read_unrelated(tmp_path)


@pytest.mark.parametrize(("lang", "name"), [("en", "Sentences"), ("de", "Sentences_de"), ("ja", "Sentences_jp_v2")])
def test_each_language_has_a_folder(lang: str, name: str, tmp_path: Path) -> None:
    assert find_sentence_folder(tmp_path, lang) is None
    (tmp_path / name).mkdir()
    assert find_sentence_folder(tmp_path, lang) == tmp_path / name


def test_japanese_prefers_the_version_with_all_captions(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"Sentences_jp_v{version}").mkdir()
    assert find_sentence_folder(tmp_path, "ja") == tmp_path / "Sentences_jp_v2"


# the writer of the sample and this reader


def composed() -> Iterator[tuple[SampleImage, dict[str, int]]]:
    """Yield the images of the sample, drawn ones first, with the chain numbers of their things as the writer counts them."""
    first = FIRST_CHAIN
    for item in sorted(compose_sample(), key=lambda item: item.split == "train"):
        chains = {role: first + number for number, role in enumerate(mentions_by_role(item.scene))}
        first += len(chains)
        yield item, chains


def said(sentence: Saying, chains: dict[str, int]) -> list[tuple[str, int, tuple[str, ...]]]:
    phrases = (piece for piece in sentence if isinstance(piece, Said))
    return [(phrase.words, chains[phrase.mention.role], (phrase.mention.type,)) for phrase in phrases]


@pytest.mark.slow
def test_every_phrase_and_box_of_the_sample_is_read_back(sample_folder: Path, tmp_path: Path) -> None:
    corpus = open_entities_corpus(sample_folder, tmp_path)
    phrases = boxes = 0
    for item, chains in composed():
        name = str(item.id)
        read = read_image_sentences(sample_folder / "Sentences", name)
        assert [sentence.text for sentence in read] == [tokenized_text(caption) for caption in item.captions]
        for sentence, caption in zip(read, item.captions, strict=True):
            assert [(p.words, p.chain, p.types) for p in sentence.phrases] == said(caption, chains)
            phrases += len(sentence.phrases)
        assert corpus.sentences(name) == read
        if item.split == "train":
            assert (read_image_annotation(sample_folder, name), corpus.annotation(name)) == (None, None), "not drawn"
            continue
        for lang in TRANSLATIONS:
            (translated,) = read_image_sentences(sample_folder / f"Sentences_{lang}", name)
            assert [(p.words, p.chain, p.types) for p in translated.phrases] == said(item.translation(lang), chains)
        annotation = read_image_annotation(sample_folder, name)
        assert annotation is not None
        _, corners = item.draw()
        drawn_at = {chains[role]: corner for role, corner in corners.items()}
        assert dict(annotation.boxes) == {
            c: (left, top, right + 1, bottom + 1) for c, (left, top, right, bottom) in drawn_at.items()
        }
        assert annotation.scenes == annotation.unboxed == (chains["place"],)
        assert corpus.annotation(name) == annotation
        boxes += len(annotation.boxes)
    counts = corpus.counts()
    assert (counts["images"], counts["captions"], counts["phrases"], counts["boxes"]) == (5050, 25_250, phrases, boxes)


# the index


def small_corpus(folder: Path, images: int) -> None:
    for number in range(images):
        write_lines(folder / "Sentences" / f"{number}.txt", [f"[/EN#{number + 1}/people A man] {k} ." for k in range(5)])
        (folder / "Annotations").mkdir(exist_ok=True)
        path = folder / "Annotations" / f"{number}.xml"
        path.write_text(f"<annotation>{SIZE}<object><name>{number + 1}</name>{BOX}</object></annotation>")


def test_the_index_is_reused_and_rebuilt_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_corpus(tmp_path / "data", 3)
    first = open_entities_corpus(tmp_path / "data", tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(entities, "read_sentences", lambda _: pytest.fail("parsed again"))
        again = open_entities_corpus(tmp_path / "data", tmp_path / "cache")
    assert again.images == first.images == ("0", "1", "2")
    assert again.sentences("1") == first.sentences("1") == read_image_sentences(tmp_path / "data" / "Sentences", "1")
    assert (again.sentences("9"), again.annotation("9")) == ((), None)
    write_lines(tmp_path / "data" / "Sentences" / "1.txt", ["[/EN#1/people Another man] ."])
    assert open_entities_corpus(tmp_path / "data", tmp_path / "cache").sentences("1")[0].text == "Another man ."


def test_a_broken_file_leaves_no_index(tmp_path: Path) -> None:
    small_corpus(tmp_path / "data", 3)
    write_lines(tmp_path / "data" / "Sentences" / "2.txt", ["[/EN#1/people"])
    with pytest.raises(HarnessError, match=r"2\.txt, line 1"):
        open_entities_corpus(tmp_path / "data", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    small_corpus(tmp_path / "data", 1)
    open_entities_corpus(tmp_path / "data", tmp_path / "cache")
    (index,) = (tmp_path / "cache").iterdir()
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(HarnessError, match=re.escape(str(index))):
        open_entities_corpus(tmp_path / "data", tmp_path / "cache")


def test_a_folder_without_tags_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="has no tagged sentences in en: looked for Sentences/"):
        open_entities_corpus(tmp_path, tmp_path)


def test_the_command_counts_what_a_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_corpus(tmp_path / "data", 3)
    monkeypatch.setenv("HARNESS_STORE", str(tmp_path / "store"))
    shown: list[str] = []
    entities.main([str(tmp_path / "data")], shown.append)
    assert dict(reversed(line.split()) for line in shown) == dict.fromkeys(  # type: ignore[misc]
        ["images", "chains", "boxes"], "3"
    ) | dict.fromkeys(["captions", "phrases", "people"], "15")


@pytest.mark.slow
def test_a_thousand_images_are_read_in_a_thirtieth_of_the_time_that_all_may_take(tmp_path: Path) -> None:
    small_corpus(tmp_path / "data", 1000)
    began = time.process_time()
    open_entities_corpus(tmp_path / "data", tmp_path / "cache")
    assert time.process_time() - began < 60 / 31.783


# tampered files


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a file with up to four ranges deleted, doubled, overwritten or moved."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(start + rng.choice((1, 1, 2, 9, 40)), len(data))
        middle = rng.choice(
            (b"", data[start:end] * 2, rng.randbytes(end - start), rng.choice((b"[", b"]", b"/EN#", b"<", b"0", b"\n")))
        )
        data = data[:start] + middle + data[end:]
    return data


@pytest.mark.slow
def test_ten_thousand_tampered_files_are_read_to_the_letter_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = random.Random(5)
    text = "\n".join(
        f"[/EN#{k}/people/other Two men] near [/EN#0/notvisual it] , 3:[/EN#9/scene 公園]で ." for k in range(1, 6)
    ).encode()
    picture = xml(
        tmp_path, "<name>3</name><name>4</name>" + BOX, "<name>5</name><scene>1</scene><nobndbox>1</nobndbox>"
    ).read_bytes()
    refused = 0
    for number in range(10_000):
        path, data, read = (tmp_path / "8.txt", text, check_text) if number % 2 else (tmp_path / "8.xml", picture, check_boxes)
        path.write_bytes(mutated(data, rng))
        if error := refusal(read, path):
            refused += 1
            assert re.match(rf"{re.escape(str(path))}.* line \d", error)
            assert "\n" not in error
    assert 2000 < refused < 9500


def refusal(read: Callable[[Path], None], path: Path) -> str:
    try:
        read(path)
    except HarnessError as error:
        return str(error)
    return ""


def check_text(path: Path) -> None:
    """Check that nothing of the file is lost or added."""
    sentences = read_sentences(path)
    lines = path.read_bytes().decode().removesuffix("\n").split("\n") if sentences else []
    assert [markup(sentence) for sentence in sentences] == [line.removesuffix("\r") for line in lines]


def check_boxes(path: Path) -> None:
    """Check that every chain and side of a box is in the file, and every box inside the picture."""
    read = read_annotation(path)
    numbers = {int(number) for number in re.findall(rb"[0-9]+", path.read_bytes())}
    for chain, (left, top, right, bottom) in read.boxes:
        assert chain in numbers
        assert 0 <= left < right <= read.width
        assert 0 <= top < bottom <= read.height
        assert {read.width, read.height} <= numbers
        assert {left + 1, top + 1} <= numbers | {1}
        assert {right, bottom} <= numbers
