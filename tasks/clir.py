"""The task clir: queries in one language and documents in English, in the folder layout of BEIR (arXiv 2104.08663).

    corpus.jsonl           {"_id": ..., "title": ..., "text": ...}, one English document a line; the title is optional
    queries.jsonl          {"_id": ..., "text": ...}, in the requested language; English if there are other query files
    queries.<code>.jsonl   the same queries in the language of the code (`queries.de.jsonl`)
    qrels/<split>.tsv      query id, document id, relevance (0: not relevant; a larger number: more relevant), with a header

Each file may be gzip.
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
from harness.core.error_messages import short_message
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
    """`harness.core.data.Documents` in a file. They are read again for each use and never all in memory."""

    path: Path
    count: int
    contents: str

    def __len__(self) -> int:
        return self.count

    def parts(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Yield ids and texts in parts. Raises HarnessError if the file has changed since it was opened."""
        ids, texts, left = [], [], self.count
        for name, text in read_documents(self.path):
            ids.append(name)
            texts.append(text)
            left -= 1
            if len(ids) == DOCUMENTS_A_PART:
                yield ids, texts
                ids, texts = [], []
        if left:
            raise HarnessError(f"{self.path} no longer has {self.count:,} documents: the file changed while it was read")
        if ids:
            yield ids, texts

    def digest(self) -> str:
        """Return a digest of ids and texts in order."""
        return self.contents


class Clir(AllLanguages):
    """`harness.core.protocols.Task` over a folder in the layout of BEIR, in the languages of its query files."""

    def __init__(self) -> None:
        self._taken_for: dict[Path, str] = {}
        self._opened: dict[tuple[Path, str], tuple[DocumentFile, dict[str, int]]] = {}

    @property
    def card(self) -> TaskCard:
        """Return the card of the task."""
        return CLIR_CARD

    def sources(self) -> tuple[CaptionSource, ...]:
        """Return the one source, the queries of the folder."""
        return (_SOURCE,)

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> TextRetrieval:
        """Read the judged queries of a split in one language, and their judgements. The documents are read later.

        Judged queries without a text in this language are left out and counted in the notes. As in BEIR, a document with the id
        of a query is no candidate for that query.
        Raises MissingError if the folder has no queries in the language. Raises HarnessError naming file and line if a line is
        malformed, and HarnessError if the folder has no documents or no such split.
        """
        if source not in (None, _SOURCE.name):
            raise HarnessError(
                f"unknown caption source {source!r}: {CLIR_CARD.name} has one source, {_SOURCE.name}, the queries of the folder"
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
            raise HarnessError(f"{path} has no query with a relevant document in {split}.tsv: do both belong to one collection?")
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
        """Read the bitext in the folder's `bitext/`. Raises MissingError if there is none."""
        return load_bitext_folder(data, self.language(lang), self.held_out(data, lang))

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """Return the queries in English and in the language that the folder has."""
        own = next(iter(_named_files(data, self.language(lang))), None) or find_plain_or_gzip(data / QUERY_FILE)
        english, foreign = (frozenset(read_beir_queries(path).values() if path else ()) for path in (_english_file(data), own))
        return HeldOut(frozenset(), english, foreign)

    def check(self, data: Path) -> list[Finding]:
        """Return what the folder has and what is missing. Raises HarnessError only if the folder does not exist."""
        _need_folder(data)
        findings = [_found("documents", f"in {CORPUS_FILE}", _documents_of, data)]
        findings += [_found(path.name, "queries", read_beir_queries, path) for path in _query_files(data)]
        if not _query_files(data):
            findings.append(Finding("queries", False, f"no {QUERY_FILE} and no queries.<code>.jsonl"))
        splits = _splits(data)
        findings += [_found(f"{QRELS_FOLDER}/{path.name}", "queries judged", read_judgements, path) for path in splits.values()]
        return findings if splits else [*findings, Finding(QRELS_FOLDER, False, f"no {QRELS_FOLDER}/<split>.tsv")]

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:  # noqa: ARG002
        """Return no files: every collection has its own publisher."""
        return ()

    def contents(self, data: Path) -> Contents:
        """Return every file that the task reads. There are no pictures."""
        files = [_need(data, CORPUS_FILE), *_query_files(data), *_splits(data).values(), *(data / "bitext").glob("*")]
        return Contents(tuple(sorted(path.relative_to(data).as_posix() for path in files)), {})

    def write_sample(self, folder: Path) -> None:  # noqa: ARG002
        """Raise HarnessError: the task has no sample."""
        _no_sample()

    def sample_version(self) -> str:
        """Raise HarnessError: the task has no sample."""
        _no_sample()

    def _queries_of(self, data: Path, language: Language) -> tuple[Path, list[str]]:
        """Return the query file of a language, and notes on it."""
        named = _named_files(data, language)
        if named:
            return named[0], []
        alone = find_plain_or_gzip(data / QUERY_FILE)
        if alone is None or (len(_query_files(data)) > 1 and language.code != "en"):
            there = ", ".join(path.name for path in _query_files(data)) or "none"
            raise MissingError(f"{data} has no {language.name} queries: looked for queries.{language.code}.jsonl, found {there}")
        if len(_query_files(data)) > 1:
            return alone, []
        other = self._taken_for.setdefault(alone, language.code)
        if other != language.code:
            kind = MissingError if language.code == "en" else HarnessError
            raise kind(f"{alone} was read as {other} and cannot be {language.code} too: rename it queries.{other}.jsonl")
        return alone, [f"{QUERY_FILE} does not say its language: taken to be {language.name}"]

    def _english(self, data: Path, language: Language) -> dict[str, str]:
        """Return the English texts by query id for queries in another language; empty if the folder has none."""
        path = _english_file(data)
        return read_beir_queries(path) if path and language.code != "en" else {}


def _documents_of(data: Path) -> DocumentFile:
    return open_documents(_need(data, CORPUS_FILE), ())[0]


def open_documents(path: Path, wanted: Collection[str]) -> tuple[DocumentFile, dict[str, int]]:
    """Read a document file once. Return a handle to read it again, and the positions of the wanted documents by id.

    Raises HarnessError naming a line that is no document or repeats an id.
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
        raise HarnessError(f"{path} has no documents: expected {_DOCUMENT_FORM} on each line")
    # Hashes of eight bytes show whether two documents may share an id. Only then are the ids themselves held in memory.
    if len(np.unique(np.frombuffer(seen, np.uint64))) < len(seen):
        _refuse_doubles(path)
    return DocumentFile(path, len(seen), digest.hexdigest()), places


def _refuse_doubles(path: Path) -> None:
    lines: dict[str, int] = {}
    for line, (name, _) in enumerate(read_documents(path), start=1):
        if lines.setdefault(name, line) != line:
            raise HarnessError(f"{path}, line {line:,}: the document {name!r} is on line {lines[name]:,} already")


def read_documents(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text, title first, of each document. Raises HarnessError naming a line that is no document."""
    for _, entry in read_beir_lines(path, _DOCUMENT_FORM):
        yield str(entry.id), f"{entry.title or ''} {entry.text}".strip()


def read_beir_queries(path: Path) -> dict[str, str]:
    """Return the query texts by id. Raises HarnessError naming a line that is no query, is empty, or repeats an id."""
    queries: dict[str, str] = {}
    for line, entry in read_beir_lines(path, _QUERY_FORM):
        name = str(entry.id)
        if not entry.text.strip():
            raise HarnessError(f"{path}, line {line:,}: the query {name!r} is empty")
        if name in queries:
            raise HarnessError(f"{path}, line {line:,}: the query {name!r} occurs twice")
        queries[name] = entry.text
    return queries


_TextId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
_NumberId = Annotated[int, Field(ge=0, lt=1 << 63)]


class BeirLine(BaseModel):
    """A document or a query. Ids may be numbers. Other fields, such as `metadata`, are ignored."""

    model_config = ConfigDict(strict=True)

    id: _TextId | _NumberId = Field(alias="_id")
    text: str
    title: str | None = None


def read_beir_lines(path: Path, form: str) -> Iterator[tuple[int, BeirLine]]:
    """Yield number and content of each line that is not blank. The file is read line by line, since it may exceed memory.

    Raises HarnessError naming a line that is malformed or longer than MAX_LINE_BYTES, and if the file cannot be read.
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
        raise HarnessError(f"{path}, line {number:,}: expected {form}: {short_message(error)}") from None
    except (EOFError, zlib.error, OSError) as error:
        raise HarnessError(f"{path} cannot be read after line {number:,}: {error}") from None


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """Return the relevance, 1 or more, of each relevant document by query id and document id.

    Queries without a relevant document are left out. Raises HarnessError naming a line that is no judgement or repeats a pair.
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
    """Return the relevance by document position for each judged query, in the order of the queries.

    A document that the corpus lacks has a negative position.
    """
    rows = {}
    for query in queries:
        grades = {name: grade for name, grade in judged.get(query, {}).items() if name != query}
        if grades:
            # Below -1, which means no document. Missing documents count among the relevant ones that recall expects.
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
        raise HarnessError(f"{data} is not a folder: give the folder of a collection with --data DIR or CLIR_ROOT")


def _need(data: Path, name: str) -> Path:
    _need_folder(data)
    path = find_plain_or_gzip(data / name)
    if path is None:
        raise HarnessError(f"{data / name} is missing: expected a folder in the layout of BEIR ({CLIR_CARD.source})")
    return path


def _splits(data: Path) -> dict[str, Path]:
    found = sorted((data / QRELS_FOLDER).glob("*.tsv*"))
    return {path.name.partition(".")[0]: path for path in found if path.name.endswith((".tsv", ".tsv.gz"))}


def _judgements_of(data: Path, split: str) -> Path:
    _need_folder(data)
    splits = _splits(data)
    if split not in splits:
        raise HarnessError(
            f"{data / QRELS_FOLDER / split}.tsv is missing: the folder has the splits {', '.join(splits) or 'none'}"
        )
    return splits[split]


def _query_files(data: Path) -> list[Path]:
    return sorted(path for path in data.glob("queries.*") if path.name.endswith((".jsonl", ".jsonl.gz")))


def _named_files(data: Path, language: Language) -> list[Path]:
    codes = (word for word in (language.code, *language.aliases) if " " not in word)
    return [path for path in (find_plain_or_gzip(data / f"queries.{code}.jsonl") for code in codes) if path]


def _english_file(data: Path) -> Path | None:
    """Return the file of English queries. A file without a language code is English if there are other query files."""
    named = _named_files(data, known_languages()["en"])
    return named[0] if named else find_plain_or_gzip(data / QUERY_FILE) if len(_query_files(data)) > 1 else None


def _found(what: str, unit: str, read: Callable[[Path], Sized], path: Path) -> Finding:
    try:
        return Finding(what, True, f"{len(read(path)):,} {unit}")
    except HarnessError as error:
        return Finding(what, False, str(error))


def _no_sample() -> NoReturn:
    raise HarnessError("clir has no embedded sample: give the folder of a collection with --data DIR or CLIR_ROOT")
