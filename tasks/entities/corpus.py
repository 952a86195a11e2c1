"""Reader of Flickr30k Entities: phrases of captions with their boxes, joined to images by id alone.

`Sentences/<id>.txt` has the captions of an image, one a line, with tags around entity phrases: `[/EN#283585/people A young boy]
with ...`. `Annotations/<id>.xml` has the boxes of each coreference chain (the number after `#`). The train, val and test lists of
Flickr30k Entities are never read, since they differ from Karpathy's splits: 25 of its 1,000 test images are in Karpathy's test
split. Flickr30kEnt-JP (`Sentences_jp_v2/`) has the same tags after the number of the English phrase.

`python -m harness.tasks.entities.corpus FOLDER` reads every file of a folder and prints counts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.readers.text_files import check_caption, read_lines, read_text
from harness.storage.plain_files import check_plain_file
from harness.storage.store import Store, new_file

if TYPE_CHECKING:
    import pyarrow as pa

SENTENCES, ANNOTATIONS, UNRELATED = "Sentences", "Annotations", "UNRELATED_CAPTIONS"
URL = "https://github.com/BryanPlummer/flickr30k_entities"
NOT_VISUAL = 0
"""The chain number of phrases that name nothing visible."""

# Part of the name of an index. Increase it when the same files give another corpus.
_INDEX_VERSION = 1
_IMAGES_A_BATCH = 2048
_TAG = re.compile(
    r"(?:(?P<twin>[1-9][0-9]{0,3}):)?"
    r"\[/EN#(?P<chain>0|[1-9][0-9]{0,17})(?P<types>(?:/[a-z]+)+) (?P<words>[^\s\[\]](?:[^\[\]]*[^\s\[\]])?)\]"
)
_SIDES = ("xmin", "ymin", "xmax", "ymax")

EntityBox = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class TaggedPhrase:
    """An entity phrase. `start` is its position in the sentence, in characters.

    chain: the coreference chain; phrases of an image with the same number name the same entity. types: one or more of people,
    clothing, bodyparts, animals, vehicles, instruments, scene, other, notvisual. twin: in a translation, the number from 1 of the
    corresponding English phrase, if the file has it.
    """

    words: str
    chain: int
    types: tuple[str, ...]
    start: int
    twin: int | None = None


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A caption without tags, and its phrases in order. An empty text stands for a missing caption."""

    text: str
    phrases: tuple[TaggedPhrase, ...]

    @property
    def entities(self) -> tuple[TaggedPhrase, ...]:
        """The phrases that name something visible."""
        return tuple(phrase for phrase in self.phrases if phrase.chain != NOT_VISUAL)


@dataclass(frozen=True, slots=True)
class Annotation:
    """The boxes of an image of `width` x `height` pixels.

    boxes: (chain, box) pairs in the order of the file. A chain may have several boxes, and a box several chains. A box is (left,
    top, right, bottom) in pixels from 0 inside the image; right and bottom are excluded.
    scenes: chains that name the whole scene. unboxed: chains that the file marks as having no box.
    """

    width: int
    height: int
    boxes: tuple[tuple[int, EntityBox], ...]
    scenes: tuple[int, ...]
    unboxed: tuple[int, ...]

    def boxes_of(self, chain: int) -> tuple[EntityBox, ...]:
        """Return the boxes of a chain, which may be none."""
        return tuple(box for name, box in self.boxes if name == chain)


def parse_sentence(line: str) -> TaggedSentence:
    """Parse a tagged line. Raises ValueError showing a bracket that belongs to no complete tag.

    >>> sentence = parse_sentence("[/EN#7/people/other A man] in [/EN#0/notvisual front] .")
    >>> sentence.text, [(phrase.chain, phrase.types, phrase.start) for phrase in sentence.phrases]
    ('A man in front .', [(7, ('people', 'other'), 0), (0, ('notvisual',), 9)])
    """
    pieces, phrases, at, length = [], [], 0, 0
    for tag in _TAG.finditer(line):
        pieces.append(line[at : tag.start()])
        length += len(pieces[-1])
        words, twin = tag["words"], tag["twin"]
        types = tuple(tag["types"][1:].split("/"))
        phrases.append(TaggedPhrase(words, int(tag["chain"]), types, length, int(twin) if twin else None))
        pieces.append(words)
        length += len(words)
        at = tag.end()
    pieces.append(line[at:])
    for piece in pieces[::2]:  # outside the tags
        if found := re.search(r"[\[\]]", piece):
            raise ValueError(
                f"bracket outside any tag near {piece[found.start() : found.start() + 30]!r}: expected [/EN#CHAIN/TYPE WORDS]"
            )
    return TaggedSentence("".join(pieces), tuple(phrases))


def read_sentences(path: Path) -> tuple[TaggedSentence, ...]:
    """Return the captions of an image, one for each line, including empty ones. Raises HarnessError naming file and line."""
    sentences = []
    for number, line in enumerate(read_lines(path), start=1):
        check_caption(f"{path}, line {number}", line)
        try:
            sentences.append(parse_sentence(line))
        except ValueError as error:
            raise HarnessError(f"{path}, line {number}: {error}") from None
    return tuple(sentences)


def read_annotation(path: Path) -> Annotation:
    """Return the boxes of an image, clipped to the picture.

    Raises HarnessError naming file and line if the file is not XML, declares XML entities, or has no size. The same holds for an
    object without a chain, without both a box and `nobndbox`, or with a box that is empty or outside the picture.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    check_plain_file(path)
    try:
        data = path.read_bytes()
        root = fromstring(data)
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    except ParseError as error:
        reason, _, _ = str(error).partition(": line")
        raise HarnessError(f"{path}, line {error.position[0]}: not XML ({reason})") from None
    except (DefusedXmlException, ValueError, LookupError) as error:
        raise HarnessError(f"{path}, line 1: not an XML file of Flickr30k Entities ({error})") from None
    try:
        width, height = (_whole(root.find("size"), side, at_least=1) for side in ("width", "height"))
    except ValueError as error:
        raise HarnessError(f"{path}, line {_line(data, 'size', 0)}: size: {error}") from None
    boxes: list[tuple[int, EntityBox]] = []
    flags: dict[str, list[int]] = {"scene": [], "nobndbox": []}
    for place, element in enumerate(root.iterfind("object")):
        try:
            chains = _chains(element)
            boxes += [(chain, box) for box in _boxes(element, width, height) for chain in chains]
            for flag in flags:
                if element.find(flag) is not None and _whole(element, flag):
                    flags[flag] += chains
        except ValueError as error:
            raise HarnessError(f"{path}, line {_line(data, 'object', place)}: object {place + 1}: {error}") from None
    return Annotation(width, height, tuple(boxes), tuple(flags["scene"]), tuple(flags["nobndbox"]))


def _chains(element: Any) -> list[int]:
    names = [(name.text or "").strip() for name in element.iterfind("name")]
    if not names:
        raise ValueError("it has no name: expected the number of a chain")
    return [_number(name, "name") for name in names]


def _boxes(element: Any, width: int, height: int) -> list[EntityBox]:
    """Return the box of an object in a list, which is empty if the object has `nobndbox` 1."""
    sides, none = element.find("bndbox"), element.find("nobndbox")
    if sides is None:
        if none is None or not _whole(element, "nobndbox"):
            raise ValueError("it has neither a bndbox nor nobndbox 1")
        return []
    if none is not None and _whole(element, "nobndbox"):
        raise ValueError("it has both a bndbox and nobndbox 1: remove one")
    left, top, right, bottom = (_whole(sides, side) for side in _SIDES)
    # The files count pixels from 1 and include the last one.
    box = max(left - 1, 0), max(top - 1, 0), min(right, width), min(bottom, height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"the box {left}, {top}, {right}, {bottom} contains no pixel of the {width} x {height} picture")
    return [box]


def _whole(parent: Any, name: str, at_least: int = 0) -> int:
    """Return the integer in a child of an element."""
    child = None if parent is None else parent.find(name)
    if child is None:
        raise ValueError(f"there is no {name}")
    return _number((child.text or "").strip(), name, at_least)


def _number(text: str, name: str, at_least: int = 0) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < at_least:
        raise ValueError(f"{name} is {text[:40]!r}: expected a whole number from {at_least}")
    return int(text)


def _line(data: bytes, tag: str, place: int) -> int:
    """Return the line on which an element opens. ElementTree keeps no line numbers, so they are searched for messages only."""
    # An unclosed comment runs to the end. Otherwise each of many openings would be searched to the end.
    text = re.sub(rb"<!--.*?(?:-->|\Z)", lambda comment: b"\n" * comment[0].count(b"\n"), data, flags=re.DOTALL)
    opened = [match.start() for match in re.finditer(rb"<" + tag.encode() + rb"[\s>/]", text)]
    return text.count(b"\n", 0, opened[place]) + 1 if place < len(opened) else 1


def read_unrelated(data: Path) -> frozenset[tuple[str, int]]:
    """Return the captions that do not describe their image as (image id, number from 0); empty without such a file.

    The file counts sentences from 1. Raises HarnessError naming file and line.
    """
    path = data / UNRELATED
    if not path.is_file():
        return frozenset()
    found = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = re.fullmatch(r"\s*([0-9]+)\s+([1-9][0-9]?)\s*", line)
        if row is None:
            raise HarnessError(f"{path}, line {number}: {line[:100]!r}: expected an image id and a sentence number from 1")
        found.add((row[1], int(row[2]) - 1))
    return frozenset(found)


def find_sentence_folder(data: Path, lang: str) -> Path | None:
    """Return the folder of a language's tagged sentences, or None: `Sentences` (English), `Sentences_jp_v2` (Japanese)."""
    names = {"en": [SENTENCES], "ja": ["Sentences_jp_v2", "Sentences_ja", "Sentences_jp_v1"]}.get(lang, [f"{SENTENCES}_{lang}"])
    return next((data / name for name in names if (data / name).is_dir()), None)


def read_image_sentences(folder: Path, image: str) -> tuple[TaggedSentence, ...]:
    """Return the tagged captions of an image; empty if it has no file. Raises HarnessError as `read_sentences`."""
    path = folder / f"{image}.txt"
    return read_sentences(path) if path.is_file() else ()


def read_image_annotation(data: Path, image: str) -> Annotation | None:
    """Return the boxes of an image, or None if it has no file. Raises HarnessError as `read_annotation`."""
    path = data / ANNOTATIONS / f"{image}.xml"
    return read_annotation(path) if path.is_file() else None


class EntitiesCorpus:
    """Access to all files of a folder through an index. It opens at once and builds the objects of an image on request.

    Raises HarnessError naming the index if it cannot be read.
    """

    def __init__(self, index: Path) -> None:
        import pyarrow as pa

        try:
            with pa.memory_map(str(index)) as source:
                self._table = pa.ipc.open_file(source).read_all().combine_chunks()
        except (OSError, pa.ArrowInvalid) as error:
            raise HarnessError(f"{index} cannot be read ({error}): delete it, and the next run builds it again") from None

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.images)}

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The sorted ids of all images with sentences or boxes."""
        return tuple(self._table["image"].to_pylist())

    def sentences(self, image: str) -> tuple[TaggedSentence, ...]:
        """Return the tagged captions of an image, which may be none."""
        return tuple(_sentence(row) for row in self._part("sentences", image) or ())

    def annotation(self, image: str) -> Annotation | None:
        """Return the boxes of an image, or None."""
        row = self._part("annotation", image)
        return None if row is None else _annotation(row)

    def counts(self) -> dict[str, int]:
        """Return the numbers of images, captions, phrases, chains in captions, and boxes, and of phrases of each type."""
        import pyarrow.compute as pc

        sentences = pc.list_flatten(self._table["sentences"])
        phrases = pc.list_flatten(pc.struct_field(sentences, "phrases"))
        chains = pc.struct_field(phrases, "chain")
        objects = pc.list_flatten(pc.struct_field(self._table["annotation"].combine_chunks(), "boxes"))
        types = pc.value_counts(pc.list_flatten(pc.struct_field(phrases, "types"))).to_pylist()
        counts = {"images": len(self.images), "captions": len(sentences), "phrases": len(phrases)}
        counts |= {"chains": len(pc.unique(chains.filter(pc.not_equal(chains, NOT_VISUAL)))), "boxes": len(objects)}
        return counts | {row["values"]: row["counts"] for row in sorted(types, key=lambda row: -row["counts"])}

    def _part(self, column: str, image: str) -> Any:
        row = self._rows.get(image)
        return None if row is None else self._table[column][row].as_py()


def open_entities_corpus(data: Path, cache: Path, lang: str = "en") -> EntitiesCorpus:
    """Open all tagged sentences of a language and all boxes of a folder, through an index in the folder `cache`.

    The index is built at first use, and again after a change of the name, size or modification time of a file.
    Raises HarnessError if the folder has no tagged sentences, and as `read_sentences` and `read_annotation`.
    """
    folder = find_sentence_folder(data, lang)
    if folder is None:
        raise HarnessError(f"{data} has no tagged sentences in {lang}: looked for {SENTENCES}/ ({URL})")
    texts, pictures = _files(folder, ".txt"), _files(data / ANNOTATIONS, ".xml")
    stamps = [f"{path} {stamp}" for files in (texts, pictures) for path, stamp in files.values()]
    index = cache / f"entities-{digest_strings([str(_INDEX_VERSION), *stamps])[:32]}.arrow"
    if not index.is_file():
        with new_file(index) as temporary:
            _write_index(temporary, {name: path for name, (path, _) in texts.items()}, {n: p for n, (p, _) in pictures.items()})
    return EntitiesCorpus(index)


def _files(folder: Path, suffix: str) -> dict[str, tuple[Path, str]]:
    """Return the files of a folder by stem, sorted, each with its size and modification time."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.name.endswith(suffix) and entry.is_file()}
    return {
        name.removesuffix(suffix): (folder / name, f"{stats[name].st_size} {stats[name].st_mtime_ns}") for name in sorted(stats)
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    phrase = pa.struct(
        {"words": pa.string(), "chain": pa.int64(), "types": pa.list_(pa.string()), "start": pa.int32(), "twin": pa.int16()}
    )
    sentence = pa.struct({"text": pa.string(), "phrases": pa.list_(phrase)})
    box = pa.struct({"chain": pa.int64(), "box": pa.list_(pa.int32(), 4)})
    chains = pa.list_(pa.int64())
    annotation = pa.struct(
        {"width": pa.int32(), "height": pa.int32(), "boxes": pa.list_(box), "scenes": chains, "unboxed": chains}
    )
    return pa.schema({"image": pa.string(), "sentences": pa.list_(sentence), "annotation": annotation})


def _write_index(path: Path, texts: dict[str, Path], pictures: dict[str, Path]) -> None:
    import pyarrow as pa

    images = sorted({*texts, *pictures})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _schema()) as writer:
        # In batches, so that the objects of the whole corpus are never in memory.
        for start in range(0, len(images), _IMAGES_A_BATCH):
            rows = [_row(name, texts.get(name), pictures.get(name)) for name in images[start : start + _IMAGES_A_BATCH]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_schema()))


def _row(image: str, text: Path | None, picture: Path | None) -> dict[str, Any]:
    sentences = [
        {"text": sentence.text, "phrases": [_plain(phrase) for phrase in sentence.phrases]}
        for sentence in (read_sentences(text) if text else ())
    ]
    annotation = None
    if picture:
        annotation = _plain(read_annotation(picture))
        annotation["boxes"] = [{"chain": chain, "box": box} for chain, box in annotation["boxes"]]
    return {"image": image, "sentences": sentences, "annotation": annotation}


def _plain(noun: TaggedPhrase | Annotation) -> dict[str, Any]:
    """Return the fields of an object without copies, unlike `dataclasses.asdict`."""
    return {name: getattr(noun, name) for name in noun.__slots__}


def _sentence(row: dict[str, Any]) -> TaggedSentence:
    phrases = (TaggedPhrase(**{**phrase, "types": tuple(phrase["types"])}) for phrase in row["phrases"])
    return TaggedSentence(row["text"], tuple(phrases))


def _annotation(row: dict[str, Any]) -> Annotation:
    boxes = tuple((each["chain"], tuple(each["box"])) for each in row["boxes"])
    return Annotation(row["width"], row["height"], boxes, tuple(row["scenes"]), tuple(row["unboxed"]))


def main(arguments: Sequence[str], show: Callable[[str], object] = print) -> None:
    """Read the folder named on the command line and print counts. The index is stored in the store."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m harness.tasks.entities.corpus FOLDER")
    try:
        corpus = open_entities_corpus(Path(arguments[0]), Store.at(None).root / "entities")
    except HarnessError as error:
        raise SystemExit(f"error: {error}") from None
    for name, count in corpus.counts().items():
        show(f"{count:>9,} {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
