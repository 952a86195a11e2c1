"""The task clir: queries in one language, documents in English, in the folder form of BEIR (arXiv 2104.08663).

    corpus.jsonl           {"_id": ..., "title": ..., "text": ...}, an English document a line; the title may be missing
    queries.jsonl          {"_id": ..., "text": ...}: the only file of queries, in the language asked for; beside others, English
    queries.<code>.jsonl   the same queries in a language, by its code (`queries.de.jsonl`)
    qrels/<split>.tsv      query id, document id, relevance (0: none; 1, 2, ...: the more the better), under a line of headings

Any of them may be gzip.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.data import (
    DOCUMENTS_A_PART,
    Bitext,
    CaptionSource,
    Contents,
    Download,
    Finding,
    HeldOut,
    Language,
    TaskCard,
    TextRetrieval,
    Unseen,
)
from harness.core.error_messages import first_line
from harness.core.errors import HarnessError, MissingError
from harness.readers.bitext import load_bitext_folder
from harness.readers.text_files import find_plain_or_gzip, read_lines
from harness.tasks.caption_sources import AllLanguages, known_languages

CLIR_CARD = TaskCard(
    name="clir",
    version="1",
    title="Cross-lingual retrieval on a collection in BEIR's folder form: queries in any language, documents in English",
    splits=("test", "dev", "train"),
    licence="the collection's",
    source="https://github.com/beir-cellar/beir",
)
_SOURCE = CaptionSource("queries", "The queries of the folder given", "unstated", (), CLIR_CARD.licence, "")
_MEASURES, _HEADLINE = ("nDCG@10", "MRR@10", "recall@100"), "nDCG@10"
CORPUS_FILE, QUERY_FILE, QRELS_FOLDER = "corpus.jsonl", "queries.jsonl", "qrels"
MAX_LINE_BYTES, MAX_ID_CHARACTERS = 16 << 20, 1_000
_DOCUMENT_FORM, _QUERY_FORM = '{"_id": "...", "title": "...", "text": "..."}', '{"_id": "...", "text": "..."}'


@dataclass(frozen=True)
class DocumentFile:
    """`harness.core.data.Documents` in a file that is read as often as they are needed, and never held whole."""

    path: Path
    count: int
    contents: str

    def __len__(self) -> int:
        return self.count

    def parts(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Ids and texts, part by part. Raises HarnessError if the file has changed since it was opened."""
        ids, texts, left = [], [], self.count
        for name, text in read_documents(self.path):
            ids.append(name)
            texts.append(text)
            left -= 1
            if len(ids) == DOCUMENTS_A_PART:
                yield ids, texts
                ids, texts = [], []
        if left:
            raise HarnessError(f"{self.path} has no longer {self.count:,} documents: it was changed while it was read")
        if ids:
            yield ids, texts

    def digest(self) -> str:
        """A digest of ids and texts, in order."""
        return self.contents


class Clir(AllLanguages):
    """`harness.core.protocols.Task` over a folder in BEIR's form, which has the languages of its files of queries."""

    def __init__(self) -> None:
        self._taken_for: dict[Path, str] = {}
        self._opened: dict[tuple[Path, str], tuple[DocumentFile, dict[str, int]]] = {}

    @property
    def card(self) -> TaskCard:
        """What the task is."""
        return CLIR_CARD

    def sources(self) -> tuple[CaptionSource, ...]:
        """The folder's own queries."""
        return (_SOURCE,)

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> TextRetrieval:
        """Read the queries that a split judges, in one language, and what is judged of them; the documents are read later.

        Left out, and counted in the notes: judged queries without a text in this language. A document of a query's own id is no
        candidate for it, as in BEIR. Raises MissingError if the folder has no such queries, HarnessError naming file and line if
        something is malformed, and if the folder lacks the documents or the split.
        """
        if source not in (None, _SOURCE.name):
            raise HarnessError(
                f"unknown caption source {source!r}: {CLIR_CARD.name} reads the queries of the folder, and has no other"
            )
        language = self.language(lang)
        judged = read_judgements(_judgements_of(data, split))
        path, notes = self._queries_of(data, language)
        queries = read_beir_queries(path)
        if (data, split) not in self._opened:  # once for all languages
            wanted = {name for of in judged.values() for name in of} | judged.keys()
            self._opened[data, split] = open_documents(_need(data, CORPUS_FILE), wanted)
        corpus, places = self._opened[data, split]
        rows = _judged_queries(judged, queries, places)
        if not rows:
            raise HarnessError(f"{path} has no query that {split}.tsv finds a document relevant to: are they of one collection?")
        twins = self._english(data, language)
        english = tuple(twins[name] for name in rows if name in twins)
        names = tuple(rows)
        lost = _counts(judged, queries, places, path)
        return TextRetrieval(
            task=CLIR_CARD.name,
            lang=language.code,
            split=split,
            source=data.resolve().name,
            kind=_SOURCE.kind,
            images=Unseen(names, corpus.digest()),
            captions=tuple(queries[name] for name in names),
            caption_ids=names,
            caption_images=np.arange(len(names)),
            english=english if len(english) == len(names) else None,
            notes=(*notes, *lost),
            documents=corpus,
            relevant=tuple(rows.values()),
            barred=tuple((places[name],) if name in places else () for name in names),
            measures=_MEASURES,
            headline=_HEADLINE,
        )

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the folder's `bitext/`: a collection itself has none. Raises MissingError if there is nothing."""
        return load_bitext_folder(data, self.language(lang), self.held_out(data, lang))

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """The queries in English and in the language, where the folder has them."""
        own = next(iter(_named_files(data, self.language(lang))), None) or find_plain_or_gzip(data / QUERY_FILE)
        english, foreign = (frozenset(read_beir_queries(path).values() if path else ()) for path in (_english_file(data), own))
        return HeldOut(frozenset(), english, foreign)

    def check(self, data: Path) -> list[Finding]:
        """Say what the folder has and lacks. Raises HarnessError only if there is no such folder."""
        _need_folder(data)
        findings = [_found("documents", f"in {CORPUS_FILE}", _documents_of, data)]
        findings += [_found(path.name, "queries", read_beir_queries, path) for path in _query_files(data)]
        if not _query_files(data):
            findings.append(Finding("queries", False, f"no {QUERY_FILE} and no queries.<code>.jsonl"))
        splits = _splits(data)
        findings += [_found(f"{QRELS_FOLDER}/{path.name}", "queries judged", read_judgements, path) for path in splits.values()]
        return findings if splits else [*findings, Finding(QRELS_FOLDER, False, f"no {QRELS_FOLDER}/<split>.tsv")]

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:  # noqa: ARG002
        """Nothing: every collection has its own place."""
        return ()

    def contents(self, data: Path) -> Contents:
        """Every file that the task reads; there are no pictures."""
        files = [_need(data, CORPUS_FILE), *_query_files(data), *_splits(data).values(), *(data / "bitext").glob("*")]
        return Contents(tuple(sorted(path.relative_to(data).as_posix() for path in files)), {})

    def write_sample(self, folder: Path) -> None:  # noqa: ARG002
        """There is none: raises HarnessError."""
        _no_sample()

    def sample_version(self) -> str:
        """There is none: raises HarnessError."""
        _no_sample()

    def _queries_of(self, data: Path, language: Language) -> tuple[Path, list[str]]:
        """The file of a language's queries, and what must be said of it."""
        named = _named_files(data, language)
        if named:
            return named[0], []
        alone = find_plain_or_gzip(data / QUERY_FILE)
        if alone is None or (len(_query_files(data)) > 1 and language.code != "en"):
            there = ", ".join(path.name for path in _query_files(data)) or "none at all"
            raise MissingError(
                f"{data} has no {language.name} queries: looked for queries.{language.code}.jsonl; there are {there}"
            )
        if len(_query_files(data)) > 1:
            return alone, []
        other = self._taken_for.setdefault(alone, language.code)
        if other != language.code:
            kind = MissingError if language.code == "en" else HarnessError
            raise kind(f"{alone} was taken to be in {other} and cannot be in {language.code} too: name it queries.{other}.jsonl")
        return alone, [f"{QUERY_FILE} does not say its language: taken to be {language.name}"]

    def _english(self, data: Path, language: Language) -> dict[str, str]:
        """The English texts of queries in another language, by id, where the folder has them."""
        path = _english_file(data)
        return read_beir_queries(path) if path and language.code != "en" else {}


def _documents_of(data: Path) -> DocumentFile:
    return open_documents(_need(data, CORPUS_FILE), ())[0]


def open_documents(path: Path, wanted: Collection[str]) -> tuple[DocumentFile, dict[str, int]]:
    """Read a corpus once: what is needed to read it again, and the numbers of the documents wanted by id.

    Raises HarnessError naming the line that is no document, or whose id another has.
    """
    digest, places, seen = hashlib.sha256(), {}, array("Q")
    wanted = frozenset(wanted)
    for number, (name, text) in enumerate(read_documents(path)):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        seen.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
        if name in wanted:
            places[name] = number
    if not seen:
        raise HarnessError(f"{path} has no document: expected {_DOCUMENT_FORM} on each line")
    # Eight bytes a document tell whether two may be of one id; only then are the ids themselves held.
    if len(np.unique(np.frombuffer(seen, np.uint64))) < len(seen):
        _refuse_doubles(path)
    return DocumentFile(path, len(seen), digest.hexdigest()), places


def _refuse_doubles(path: Path) -> None:
    lines: dict[str, int] = {}
    for line, (name, _) in enumerate(read_documents(path), start=1):
        if lines.setdefault(name, line) != line:
            raise HarnessError(f"{path}, line {line:,}: the document {name!r} is on line {lines[name]:,} already")


def read_documents(path: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each document, title first. Raises HarnessError naming the line that is none."""
    for _, entry in read_beir_lines(path, _DOCUMENT_FORM):
        yield str(entry.id), f"{entry.title or ''} {entry.text}".strip()


def read_beir_queries(path: Path) -> dict[str, str]:
    """The text of each query by id. Raises HarnessError naming the line that is none, is empty, or whose id another has."""
    queries: dict[str, str] = {}
    for line, entry in read_beir_lines(path, _QUERY_FORM):
        name = str(entry.id)
        if not entry.text.strip():
            raise HarnessError(f"{path}, line {line:,}: the query {name!r} is empty")
        if name in queries:
            raise HarnessError(f"{path}, line {line:,}: the query {name!r} is there twice")
        queries[name] = entry.text
    return queries


_TextId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
_NumberId = Annotated[int, Field(ge=0, lt=1 << 63)]


class BeirLine(BaseModel):
    """A document or a query. Ids may be numbers; what else a line holds (`metadata`) is passed over."""

    model_config = ConfigDict(strict=True)

    id: _TextId | _NumberId = Field(alias="_id")
    text: str
    title: str | None = None


def read_beir_lines(path: Path, form: str) -> Iterator[tuple[int, BeirLine]]:
    """Number and content of each line that is not blank; read line by line, since not all may fit into memory.

    Raises HarnessError naming the line that is malformed or longer than LONGEST_LINE, and if the file cannot be read.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            while raw := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(raw) == MAX_LINE_BYTES:
                    raise HarnessError(f"{path}, line {number:,} is longer than {MAX_LINE_BYTES:,} bytes: expected {form}")
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    yield number, BeirLine.model_validate_json(line)
    except ValidationError as error:
        raise HarnessError(f"{path}, line {number:,}: expected {form}: {first_line(error)}") from None
    except (EOFError, zlib.error, OSError) as error:
        raise HarnessError(f"{path} cannot be read after line {number:,}: {error}") from None


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """How relevant each judged document is to each query, by ids, 1 or more; queries without any are left out.

    Raises HarnessError naming the line that is no judgement, or judges a pair for the second time.
    """
    judged: dict[str, dict[str, int]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split("\t")
        if not line.strip() or (number == 1 and fields[0] == "query-id"):
            continue
        try:
            query, document, grade = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError):
            query = document = ""
        if not query or not document or len(fields) != 3:
            raise HarnessError(f"{path}, line {number:,}: expected query id, document id and a whole number, separated by tabs")
        if document in judged.setdefault(query, {}):
            raise HarnessError(f"{path}, line {number:,}: {document!r} is judged twice for the query {query!r}")
        judged[query][document] = grade
    relevant = {query: {name: grade for name, grade in of.items() if grade > 0} for query, of in judged.items()}
    return {query: of for query, of in relevant.items() if of}


def _judged_queries(
    judged: Mapping[str, Mapping[str, int]], queries: Mapping[str, str], places: Mapping[str, int]
) -> dict[str, dict[int, int]]:
    """Relevant documents by number, of each query in the order of the queries; one that is in no corpus by a number of none."""
    rows = {}
    for query in queries:
        grades = {name: grade for name, grade in judged.get(query, {}).items() if name != query}
        if grades:
            # Below -1, which stands for no document at all: they count in what could have been found.
            rows[query] = {places.get(name, -2 - place): grade for place, (name, grade) in enumerate(grades.items())}
    return rows


def _counts(
    judged: Mapping[str, Mapping[str, int]], queries: Mapping[str, str], places: Mapping[str, int], path: Path
) -> Iterator[str]:
    silent = sum(query not in queries for query in judged)
    names = {name for query, of in judged.items() if query in queries for name in of}
    lost = sum(name not in places for name in names)
    if silent:
        yield f"{silent:,} of {len(judged):,} judged queries are not in {path.name}: left out"
    if lost:
        yield f"{lost:,} of {len(names):,} relevant documents are not in {CORPUS_FILE}: nothing can find them"


def _need_folder(data: Path) -> None:
    if not data.is_dir():
        raise HarnessError(f"{data} is not a folder: give that of a collection with --data DIR or CLIR_ROOT")


def _need(data: Path, name: str) -> Path:
    _need_folder(data)
    path = find_plain_or_gzip(data / name)
    if path is None:
        raise HarnessError(f"{data / name} is missing: expected a folder in BEIR's form ({CLIR_CARD.source})")
    return path


def _splits(data: Path) -> dict[str, Path]:
    found = sorted((data / QRELS_FOLDER).glob("*.tsv*"))
    return {path.name.partition(".")[0]: path for path in found if path.name.endswith((".tsv", ".tsv.gz"))}


def _judgements_of(data: Path, split: str) -> Path:
    _need_folder(data)
    splits = _splits(data)
    if split not in splits:
        raise HarnessError(f"{data / QRELS_FOLDER / split}.tsv is missing: the splits there are {', '.join(splits) or 'none'}")
    return splits[split]


def _query_files(data: Path) -> list[Path]:
    return sorted(path for path in data.glob("queries.*") if path.name.endswith((".jsonl", ".jsonl.gz")))


def _named_files(data: Path, language: Language) -> list[Path]:
    codes = (word for word in (language.code, *language.aliases) if " " not in word)
    return [path for path in (find_plain_or_gzip(data / f"queries.{code}.jsonl") for code in codes) if path]


def _english_file(data: Path) -> Path | None:
    """The file of English queries; one without a language's name is English if there are others beside it."""
    named = _named_files(data, known_languages()["en"])
    return named[0] if named else find_plain_or_gzip(data / QUERY_FILE) if len(_query_files(data)) > 1 else None


def _found(what: str, unit: str, read: Callable[[Path], Sized], path: Path) -> Finding:
    try:
        return Finding(what, True, f"{len(read(path)):,} {unit}")
    except HarnessError as error:
        return Finding(what, False, str(error))


def _no_sample() -> NoReturn:
    raise HarnessError("clir has no embedded sample: give a collection's folder with --data DIR or CLIR_ROOT")
