"""Fuzz test of every reader of files: mutated inputs must be read correctly or refused in one line that names the file.

    python -m tests.fuzz 20000            so many inputs, shared out among the readers; ends with status 1 if one of them failed
    python -m tests.fuzz 1 --reader tmx --first 417    one input again, with its traceback

An input is decided by its reader and number alone; number 0 is the good file. A reader fails by any exception but `HarnessError`,
by a message of several lines, of more than 2,000 characters or without the file's name, by a result that is not right, by more
than 10 seconds, or by more than 1 GiB of address space.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The allocators of Arrow reserve gigabytes of address space.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from harness.core.data import Floats, Ranks, Retrieval, TokenStates
from harness.core.errors import HarnessError
from harness.retrieval.ranking import chance_rates, retrieval_scores

SECONDS, BYTES = 10, 1 << 30
IDS = ("11", "12", "21", "31")
TOKENS = [
    *(b"[" * 20_000, b'{"a":' * 20_000, b"<a>" * 20_000, b"1" * 400, b"9" * 5_000),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r", b"\n\n", b"\t", b"#", b"=", b".", b"]"),
    *(b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"null", b"true", b"[]", b"{}", b'""', b"''", b"\\ud800"),
    *(b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>', b"&c;", b'<!ENTITY x SYSTEM "file:///etc/passwd">', b"<!--"),
    *(b'encoding="utf-7"', b'encoding="utf-16"', b"../../x", b"/etc/x", b"[/EN#1/people a]", b"[/EN#"),
    *(b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\xff" * 8, b"|O", b"<U99999999", b"(99999999999,)", b"F64", b"ustar"),
]
BYTES_OF_NOTE = (0, 1, *b'",<[]{', 0x7F, 0x80, 0xFF)


@dataclass(frozen=True)
class Reader:
    """A reader of files. seeds: valid files by path, one of which is mutated. read: reads the folder of the files.

    beside: files that are needed too, and stay as they are.
    """

    name: str
    seeds: dict[str, bytes]
    read: Callable[[Path], object]
    beside: Mapping[str, bytes] = field(default_factory=dict)


def mutated(data: bytes, source: random.Random) -> bytes:
    """Return the data with one to six small changes."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        at = source.randrange(len(out) + 1)
        length = min(source.choice((1, 1, 2, 4, 8, 30, 200, 2_000)), len(out) - at)
        match source.randrange(9):
            case 0 if out:
                out[at % len(out)] ^= 1 << source.randrange(8)
            case 1 if out:
                out[at % len(out)] = source.choice((*BYTES_OF_NOTE, source.randrange(256)))
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                del out[at:]
            case 5:
                out[at:at] = source.choice(TOKENS)
            case 6:
                out[at : at + length] = source.choice(TOKENS)
            case 7:
                other = source.randrange(len(out) + 1)
                out[at:at] = out[other : other + length]
            case 8:
                out[at : at + length] = source.randbytes(length)
    return bytes(out)


# What is right


def right(condition: object, what: str) -> None:
    """Raise AssertionError unless a result is valid."""
    if not condition:
        raise AssertionError(f"not right: {what}")


def right_retrieval(found: Retrieval) -> None:
    """Check that captions, ids and images correspond, and that no caption is empty."""
    right(len(found.captions) == len(found.caption_ids) == len(found.caption_images), "captions and ids")
    right(len(set(found.caption_ids)) == len(found.caption_ids), "ids once")
    right(set(found.caption_images.tolist()) == set(range(len(found.images.ids))), "every image has a caption")
    right(all(text.strip() for text in found.captions), "no empty caption")


def readers() -> Iterator[Reader]:
    """Yield every reader of the project with valid files."""
    yield from caption_readers()
    yield from bitext_readers()
    yield from text_readers()
    yield from xml_and_tags()
    yield from binary_readers()
    yield from record_readers()
    yield from model_readers()
    yield from kept_readers()
    yield from state_readers()


def caption_readers() -> Iterator[Reader]:
    """Yield readers of Karpathy's JSON and of captions in each layout."""
    from harness.tasks.caption_sources import catalogue
    from harness.tasks.flickr30k import Flickr30k
    from harness.tasks.readers.captions import read_captions
    from harness.tasks.readers.karpathy import read_photos

    task, sources = Flickr30k(), catalogue().sources
    images = [{"filename": f"{n}.jpg", "split": "test", "sentences": [{"raw": f"A dog {n} .", "tokens": ["a"]}]} for n in IDS]
    karpathy = json.dumps({"dataset": "flickr30k", "images": images}).encode()

    def photos(folder: Path) -> None:
        found = read_photos(folder / "dataset_flickr30k.json")
        right(len({photo.id for photo in found}) == len(found) and all(photo.id for photo in found), "every image once")

    yield Reader("karpathy", {"dataset_flickr30k.json": karpathy}, photos)

    def captions(source: str, lang: str) -> Callable[[Path], None]:
        def read(folder: Path) -> None:
            found = read_captions(folder, sources[source], lang)
            rows = found.rows if found else ()
            right(all(row.text.strip() and row.text.encode() for row in rows), "no empty caption")
            right(len({(row.image, row.number) for row in rows}) == len(rows), "every number once")

        return read

    lines = "".join(f"{n}.jpg#0\tEin Hund {n}.\n" for n in IDS).encode()
    yield Reader("captions-tsv", {"captions/de.tsv": lines}, captions("own-captions", "de"))
    written = "".join(f'{n}.jpg\t{k}\t"Ein ""Hund"", {n}"\n' for k, n in enumerate(IDS))
    headed = {"captions/de.tsv": f"image\tnumber\tcaption\n{written}".encode()}
    yield Reader("captions-spreadsheet", headed, captions("own-captions", "de"))
    marked = "".join(f"{n}#zhm#0 两:m 只:q 狗:n ，:wd {n}:m\n" for n in IDS).encode()
    yield Reader("captions-marked", {"captions/zh.tsv": marked}, captions("own-captions", "zh"))
    yield Reader("captions-gzip", {"captions/de.tsv.gz": gzip.compress(lines)}, captions("own-captions", "de"))
    jsonl = b"".join(json.dumps({"sentences": [f"Ein Hund {n}."], "id": f"{n}.jpg"}).encode() + b"\n" for n in IDS)
    place = sources["xflickrco"].files.format(code="de", split="test", k=0, image="")
    yield Reader("captions-jsonl", {place: jsonl}, captions("xflickrco", "de"))
    crossmodal = b"".join(json.dumps({"image/key": n, "de": {"caption": ["Ein Hund"]}}).encode() + b"\n" for n in IDS)
    yield Reader("captions-crossmodal", {sources["crossmodal3600"].files: crossmodal}, captions("crossmodal3600", "de"))
    names = "".join(f"{n}.jpg\n" for n in IDS).encode()
    task1 = {"image_splits/val.txt": names, "raw/val.en": b"A dog .\n" * 4, "raw/val.de": b"Ein Hund .\n" * 4}
    aligned = {f"multi30k/data/task1/{path}": data for path, data in task1.items()}
    yield Reader("captions-aligned", aligned, captions("multi30k", "de"))

    def whole(folder: Path) -> None:
        right_retrieval(task.load(folder, "en", "test"))
        task.check(folder)
        task.held_out(folder, "de")

    pictures = {f"flickr30k-images/{name}.jpg": b"" for name in IDS}
    yield Reader("folder", {"dataset_flickr30k.json": karpathy, "sample.json": b'{"sample": false}'}, whole, pictures)


def bitext_readers() -> Iterator[Reader]:
    """Yield readers of sentence pairs, monolingual text, and the lists of languages and boards."""
    from harness.core.languages import LANGUAGES, read_language_table
    from harness.leaderboards.board.config import BOARDS, read_board_config
    from harness.readers.bitext import load_bitext_file, load_monolingual_texts
    from harness.tasks.caption_sources import SOURCES, read_catalogue
    from harness.tasks.flickr30k import Flickr30k

    german = Flickr30k().language("de")
    yield Reader(
        "languages-toml", {"languages.toml": LANGUAGES.read_bytes()}, lambda f: read_language_table(f / "languages.toml")
    )
    yield Reader("sources-toml", {"sources.toml": SOURCES.read_bytes()}, lambda f: read_catalogue(f / "sources.toml"))
    board = next(BOARDS.glob("*.toml")).read_bytes()
    yield Reader("board-toml", {"board.toml": board}, lambda folder: read_board_config(folder / "board.toml"))

    def bitext(name: str) -> Callable[[Path], None]:
        def read(folder: Path) -> None:
            found = load_bitext_file(folder / name, german)
            right(len(found.english) == len(found.foreign) == len(found.image_ids) == len(found.places), "pairs")

        return read

    unit = '<tu><tuv xml:lang="en"><seg>A <bpt>b</bpt>dog</seg></tuv><tuv xml:lang="de-DE"><seg>Ein Hund</seg></tuv></tu>'
    tmx = f'<?xml version="1.0" encoding="UTF-8"?><tmx version="1.4"><header/><body>{unit * 5}</body></tmx>'.encode()
    yield Reader("bitext-tsv", {"x.tsv": b"A dog\tEin Hund\t11.jpg\nA cat\tEine Katze\t12.jpg\n"}, bitext("x.tsv"))
    shifted = b"id\ten\tde\n" + b"".join(f"{n}.jpg\tA dog {n}\tEin Hund {n}\n".encode() for n in IDS)
    yield Reader("bitext-header", {"x.tsv": shifted}, bitext("x.tsv"))
    yield Reader("bitext-shifted", {"x.tsv": shifted.partition(b"\n")[2]}, bitext("x.tsv"))
    yield Reader("tmx", {"x.tmx": tmx}, bitext("x.tmx"))
    yield Reader("tmx-gzip", {"x.tmx.gz": gzip.compress(tmx)}, bitext("x.tmx.gz"))
    moses = {"x.en": b"A dog\nA cat\n", "x.de.gz": gzip.compress(b"Ein Hund\nEine Katze\n")}
    yield Reader("moses", moses, bitext("x"))

    def texts(folder: Path) -> None:
        english, foreign = load_monolingual_texts(folder, german)
        right(all(text.strip() for text in (*english, *foreign)) and bool(english and foreign), "sentences")

    yield Reader("texts", {"en.txt": b"A dog\nA cat\n", "de.txt.gz": gzip.compress(b"Ein Hund\n")}, texts)


def text_readers() -> Iterator[Reader]:
    """Yield readers of BEIR collections and of translations in each form."""
    from harness.core.data import Unseen
    from harness.evaluation.translate_test import MachineTranslations
    from harness.readers.translations import read_translations
    from harness.runtime.console import Console
    from harness.storage.store import Store
    from harness.tasks.clir import Clir

    def collection(folder: Path) -> None:
        found, said = Clir().load(folder, "de", "test"), Clir().check(folder)
        right_retrieval(found)
        documents = [text for _, texts in found.documents.parts() for text in texts]
        right(len(documents) == len(found.documents) and all(finding.found for finding in said), "every document")
        right(all(of and max(of) < len(documents) and min(of.values()) > 0 for of in found.relevant), "something to find")
        right(found.texts_digest(), "a digest")

    texts = [{"_id": name, "title": "A", "text": f"dog {name}"} for name in IDS]
    lines = "".join(json.dumps(each) + "\n" for each in texts).encode()
    judged = "query-id\tcorpus-id\tscore\n" + "".join(f"{name}\t{IDS[0]}\t{k}\n" for k, name in enumerate(IDS))
    beir = {"corpus.jsonl": lines, "queries.jsonl": lines, "qrels/test.tsv": judged.encode()}
    yield Reader("beir", beir, collection)
    packed = {f"{name}.gz": gzip.compress(data) for name, data in beir.items()}
    yield Reader("beir-gzip", packed, collection)

    names, owners = tuple(f"{name}#0" for name in IDS), np.arange(len(IDS))
    asked = Retrieval("x", "de", "test", "xflickrco", "x", Unseen(IDS), ("Ein Hund.",) * len(IDS), names, owners)

    def translations(name: str) -> Callable[[Path], None]:
        def read(folder: Path) -> None:
            english = read_translations(folder / name, asked).english
            right(len(english) == len(names) and all(text.encode() or not text for text in english), "one for each")

        return read

    table = "".join(f"{name}\tA dog.\n" for name in IDS).encode()
    yield Reader("translations-tsv", {"de.tsv": table}, translations("de.tsv"))
    jsonl = b"".join(json.dumps({"sentences": ["A dog."], "id": name}).encode() + b"\n" for name in IDS)
    yield Reader("translations-jsonl", {"test.jsonl": jsonl}, translations("test.jsonl"))
    console = Console()
    console.err.quiet = True
    with tempfile.TemporaryDirectory() as name:
        MachineTranslations(Shouting()).english(asked, Store(Path(name)), console)
        (kept,) = (Path(name) / "translations").glob("*.json")
        place, data = f"translations/{kept.name}", kept.read_bytes()

    def spoken(folder: Path) -> None:
        right(
            MachineTranslations(Shouting()).english(asked, Store(folder), console) == ("EIN HUND.",) * len(IDS),
            "broken ones are made anew",
        )

    yield Reader("translations-kept", {place: data}, spoken)


class Shouting:
    """A `harness.core.protocols.Translator` that writes capitals."""

    name = "shouting"

    def fingerprint(self) -> str:
        """One that never changes."""
        return "shouting"

    def translate(self, texts: Sequence[str], lang: str) -> list[str]:
        """Return the texts in capitals."""
        return [text.upper() for text in texts]


def xml_and_tags() -> Iterator[Reader]:
    """Yield readers of the sentences and boxes of Flickr30k Entities, and of proposals."""
    from harness.tasks.caption_sources import catalogue
    from harness.tasks.entities.corpus import open_entities_corpus, read_annotation, read_sentences, read_unrelated
    from harness.tasks.entities.region_proposals import read_regions
    from harness.tasks.readers.captions import read_captions

    def sentences(folder: Path) -> None:
        for sentence in read_sentences(folder / "Sentences" / "11.txt"):
            right("[" not in sentence.text and "]" not in sentence.text, "no bracket is left")
            right(all(sentence.text[p.start : p.start + len(p.words)] == p.words for p in sentence.phrases), "phrases in place")

    tagged = b"[/EN#7/people/other Two men] in [/EN#0/notvisual front] of [/EN#9/scene a house] .\nA dog .\n" * 2
    yield Reader("sentences", {"Sentences/11.txt": tagged}, sentences)
    japanese = catalogue().sources["flickr30kent-jp"].files.format(image="11", code="ja", split="", k="")
    read = lambda folder: read_captions(folder, catalogue().sources["flickr30kent-jp"], "ja")  # noqa: E731
    yield Reader("sentences-ja", {japanese: b"1:[/EN#7/people a b]c\n", "Sentences/11.txt": tagged[:60] + b"\n"}, read)
    yield Reader("unrelated", {"UNRELATED_CAPTIONS": b"# image sentence\n11 1\n12 5\n"}, read_unrelated)
    objects = (
        "<object><name>7</name><name>9</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
        "<object><name>8</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    )
    xml = f"<annotation><size><width>50</width><height>60</height><depth>3</depth></size>{objects}</annotation>".encode()

    def annotation(folder: Path) -> None:
        found = read_annotation(folder / "Annotations" / "11.xml")
        size = found.width, found.height
        inside = [0 <= box[side] < box[side + 2] <= size[side] for _, box in found.boxes for side in (0, 1)]
        right(all(inside), "boxes inside the picture")

    yield Reader("annotation", {"Annotations/11.xml": xml}, annotation)
    corpus = lambda folder: open_entities_corpus(folder, folder / "cache").counts()  # noqa: E731
    yield Reader("entities", {"Annotations/11.xml": xml, "Sentences/11.txt": tagged}, corpus)

    def proposals(folder: Path) -> None:
        regions = read_regions(folder, OneImage(), "proposals")
        left, top, right_, bottom = regions.boxes.T
        ok = (left >= 0) & (top >= 0) & (left < right_) & (top < bottom) & (right_ <= 50) & (bottom <= 60)
        right(ok.all(), "boxes inside the picture")

    given = json.dumps({"boxes": [[1, 2, 30.5, 40], [0, 0, 5, 5]], "scores": [0.9, 0.1], "width": 50, "height": 60}).encode()
    yield Reader("proposals", {"proposals/11.json": given}, proposals, {"Annotations/11.xml": xml})


class OneImage:
    """`harness.core.data.Images` of one missing picture."""

    ids = ("11",)

    def digest(self) -> str:
        """Return a constant."""
        return ""

    def open(self, index: int) -> Any:
        """Raise: the annotation has the size."""
        raise HarnessError(f"no picture {index}")


def binary_readers() -> Iterator[Reader]:
    """Yield readers of pictures, tar shards, packs and precomputed features."""
    from PIL import Image

    from harness.encoders.baselines.features import Features
    from harness.storage.packs import open_pack
    from harness.storage.store import Store
    from harness.tasks.readers.pictures import Pictures
    from harness.tasks.readers.shards import Blob, index_shards

    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)

    def encoded(form: str, mode: str = "RGB") -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, form)
        return file.getvalue()

    def picture(folder: Path) -> None:
        for path in folder.iterdir():
            found = Pictures(["11"], [Blob(str(path))]).open(0)
            right(found.mode == "RGB" and found.width * found.height <= 64_000_000, "an RGB picture")

    for form, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P")):
        yield Reader(f"{form}-{mode}".lower(), {f"11.{form.lower()}": encoded(form, mode)}, picture)

    def tar(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue()

    jpeg = encoded("JPEG")
    forms = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
    long = "d" * 120 + "/é"

    def shard(folder: Path) -> None:
        for name, blob in index_shards(folder).items():
            right(blob.start >= 0 and 0 <= blob.size <= 1 << 20, f"{name} lies in its shard")

    for form, number in forms.items():
        names = [f"{long if form != 'ustar' else ''}{name}.jpg" for name in IDS]
        yield Reader(f"shard-{form}", {"a.tar": tar(dict.fromkeys(names, jpeg[:300]), number)}, shard)

    def pack(folder: Path) -> None:
        texts = (folder / "texts.tar").read_bytes()
        shards = (folder / "shards" / "a.tar").read_bytes()
        parts = {"shards": [part("shards/a.tar", 4, shards)], "texts": part("texts.tar", 2, texts)}
        put(folder / "manifest.json", json.dumps({"task": "flickr30k", "samples": 4, **parts}).encode())
        opened = open_pack(str(folder), Store(folder / "store"))
        outside = [path for path in folder.rglob("x") if opened not in path.parents] + list(folder.parent.glob("x"))
        right(not outside and (folder / "shards" / "a.tar").read_bytes() == shards, "nothing is written outside")

    content = {"shards/a.tar": tar({f"{n}.jpg": b"x" for n in IDS}), "texts.tar": tar({"a/b.txt": b"1\n", "c.txt": b"2\n"})}
    yield Reader("pack", content, pack)
    whole = {"task": "t", "samples": 0, "shards": [], "texts": part("texts.tar", 2, content["texts.tar"])}
    texts = {"texts.tar": content["texts.tar"]}
    read = lambda folder: open_pack(str(folder), Store(folder / "store"))  # noqa: E731
    yield Reader("manifest", {"manifest.json": json.dumps(whole).encode()}, read, texts)

    def features(folder: Path) -> None:
        path = next(path for path in sorted(folder.iterdir()) if path.suffix in (".npy", ".npz", ".safetensors", ".parquet"))
        known = Features(str(path), "cpu")
        found = known.image_features(["11", "12"])
        right(found.dtype == np.float32 and found.shape[0] == 2 and found.ndim == 2, "two rows")

    for suffix, files in feature_files().items():
        yield Reader(f"features-{suffix}", files, features)


def part(name: str, samples: int, data: bytes) -> dict[str, object]:
    """Return the entry of a file in a manifest."""
    return {"name": name, "samples": samples, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def feature_files() -> dict[str, dict[str, bytes]]:
    """Return a small table of features in every form."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    kind, names, lang = ["image"] * 2 + ["text"] * 2, ["11", "12", "11#0", "12#0"], ["", "", "de", "de"]
    matrix = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    npy, npz, packed, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, matrix)
    np.savez(npz, kind=kind, id=names, lang=lang, embedding=matrix)
    np.savez_compressed(packed, kind=kind, id=names, lang=lang, embedding=matrix)
    table = pa.table({"kind": kind, "id": names, "lang": lang, "embedding": matrix.tolist()})
    pq.write_table(table, parquet)
    lists = {"kind": json.dumps(kind), "id": json.dumps(names), "lang": json.dumps(lang)}
    tsv = "".join("\t".join(row) + "\n" for row in zip(kind, names, lang, strict=True)).encode()
    return {
        "npy": {"x.npy": npy.getvalue(), "x.tsv": tsv},
        "npz": {"x.npz": npz.getvalue()},
        "npz-packed": {"x.npz": packed.getvalue()},
        "safetensors": {"x.safetensors": save({"embedding": matrix}, lists)},
        "parquet": {"x.parquet": parquet.getvalue()},
    }


def made_up(scored: dict[str, float], by_chance: dict[str, float]) -> dict[str, Any]:
    """Return the JSON of a record of four images."""
    words = ("version", "python", "platform", "device", "created", "command")
    provenance = {**dict.fromkeys(words, "x"), "commit": None, "dirty": None, "packages": {}}
    bitext = {**dict.fromkeys(("lang", "source", "kind", "digest"), "x"), "offered": 1, "dropped": 0, "used": 1}
    card = {
        **dict.fromkeys(("digest", "lang", "teacher", "teacher_fingerprint"), "x"),
        **{"config": {"objective": "kd-mse", "pairs": 100}, "bitext": bitext, "steps": 1, "losses": [1.0], "seconds": 1.0},
        "provenance": provenance,
    }
    words = ("task", "task_version", "lang", "split", "source", "kind", "images_digest", "texts_digest", "encoder")
    sizes = {"cell": "0" * 64, "images": 4, "captions": 4, "sample": False, "encoder_fingerprint": "x"}
    found = {"scores": scored, "chance": by_chance, "provenance": provenance, "tower": card, "text_tower": "kd-mse"}
    return {**dict.fromkeys(words, "x"), **sizes, **found}


def record_files(ranks: Ranks, cell: str) -> dict[str, bytes]:
    """Write a sealed record of four captions of four images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.records.schema import Record
    from harness.storage.seals import seal_folder

    record = Record.model_validate(made_up(retrieval_scores(ranks), chance_rates(np.arange(4), 4)) | {"cell": cell})
    columns = {
        "direction": ["t2i"] * 4 + ["i2t"] * 4,
        "query": [f"{n}#0" for n in IDS] + list(IDS),
        "image": [*IDS, *IDS],
        "rank": pa.array(np.concatenate([ranks.t2i, ranks.i2t]), pa.int32()),
        "facet:length": [["1-7"]] * 4 + [[]] * 4,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "record.json").write_text(record.model_dump_json(indent=1))
        pq.write_table(pa.table(columns), folder / "queries.parquet")
        seal_folder(folder, cell)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def record_readers() -> Iterator[Reader]:
    """Yield the readers of records and queries in comparisons, boards and submissions, and of the ledger of downloads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.core.data import Download
    from harness.leaderboards.records.board_records import BoardGallery
    from harness.leaderboards.records.submission import merge_submission
    from harness.records.files import load_found_boxes, load_measures
    from harness.records.towers import load_card
    from harness.storage.downloads import fetch_file

    ranks = Ranks(t2i=np.array([1, 2, 1, 4]), i2t=np.array([1, 1, 3, 2]))
    files = record_files(ranks, "0" * 64)
    yield from whole_records(files, ranks)
    yield Reader("gallery", {"queries.parquet": files["queries.parquet"]}, BoardGallery.read)
    boxes = io.BytesIO()
    pq.write_table(pa.table({"found": [[1, 2, 3, 4]] * 4, "pointed": [True] * 4}), boxes)

    def found(folder: Path) -> None:
        right(load_found_boxes(folder).shape[1] == 4, "boxes")
        right(load_measures(folder).keys() <= {"pointing"}, "whether they pointed into a box")

    yield Reader("found", {"queries.parquet": boxes.getvalue()}, found)
    measures = io.BytesIO()
    pq.write_table(pa.table({"measure:MRR": np.ones(4, np.float32), "measure:AP": np.zeros(4, np.float32)}), measures)

    def measured(folder: Path) -> None:
        right(all(len(of) == 4 and of.dtype == np.float64 for of in load_measures(folder).values()), "four numbers each")

    yield Reader("measures", {"queries.parquet": measures.getvalue()}, measured)
    yield Reader("card", {"card.json": json.dumps(made_up({}, {})["tower"]).encode()}, load_card)
    into = {f"given/{name}": files[name] for name in ("record.json", "queries.parquet")}
    yield Reader("submission", into, lambda folder: merge_submission(folder / "given", folder / "into"))
    download = Download("x.txt", "http://127.0.0.1:9/x", "s", "l")
    ledger = json.dumps({"x.txt": {"sha256": hashlib.sha256(b"1").hexdigest()}}).encode()
    yield Reader("ledger", {"fetched.json": ledger}, lambda folder: fetch_file(download, folder), {"x.txt": b"1"})


def whole_records(files: dict[str, bytes], ranks: Ranks) -> Iterator[Reader]:
    """Yield readers of records with and without seal, whose numbers never change silently, and of records in a store."""
    from harness.records.files import check_stored_record, load_facets
    from harness.records.schema import Record
    from harness.reporting.tables import runs_table
    from harness.statistics.measurement import Measurement
    from harness.storage.seals import load_readable
    from harness.storage.store import Store

    record = Record.model_validate_json(files["record.json"])

    def compared(folder: Path) -> None:
        found = Measurement.read("x", folder)
        same = np.array_equal(found.ranks.t2i, ranks.t2i) and np.array_equal(found.ranks.i2t, ranks.i2t)
        right(same and found.record == record and found.owner.tolist() == [0, 1, 2, 3], "every number")
        right(load_facets(folder) == {"length": [("1-7",)] * 4}, "every facet")

    yield Reader("record", files, compared)

    def earlier(folder: Path) -> None:
        found = Measurement.read("x", folder)
        said = [retrieval_scores(found.ranks)[name] - record.scores[name] for name in found.record.scores]
        said += [found.record.scores[name] - record.scores[name] for name in record.scores]
        right(np.abs(said).max() < 1e-6, "every score")

    yield Reader("record-unsealed", {name: files[name] for name in ("record.json", "queries.parquet")}, earlier)
    beside = record_files(Ranks(ranks.i2t, ranks.t2i), "1" * 64)
    other = Record.model_validate_json(beside["record.json"])

    def listed(folder: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            right(runs_table(Store(folder)).row_count in (1, 2), "a table")
            found = {of.cell: of for _, of in load_readable(Store(folder).records(), check_stored_record)}
        right(found.pop(other.cell) == other and found in ({}, {record.cell: record}), "every number")

    places = [
        {f"records/{of.cell}/{name}": data for name, data in each.items()} for of, each in ((record, files), (other, beside))
    ]
    yield Reader("records-listed", places[0], listed, places[1])


def model_readers() -> Iterator[Reader]:
    """Yield readers of towers, trainings and trials, whose numbers never change silently."""
    import torch

    from harness.distill.checkpoint import TrainingState, load_tower, load_training, save_tower, save_training
    from harness.distill.data.subwords import train_tokenizer
    from harness.distill.model.tower import TextTower, TowerConfig
    from harness.distill.tuning import stored_trial
    from harness.records.towers import load_card
    from harness.storage.seals import seal_folder, write_json_entry

    shape = {"vocab_size": 40, "width": 8, "layers": 1, "heads": 2, "mlp_width": 8, "joint_dim": 6, "max_length": 8}
    tower = TextTower(TowerConfig.model_validate(shape))
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.1)
    tower.encode([[1, 2]]).pooled.sum().backward()
    optimiser.step()
    card = made_up({}, {})["tower"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tower"
        folder.mkdir()
        save_tower(folder, tower, train_tokenizer(["a dog", "a cat"] * 3, 100))
        (folder / "card.json").write_text(json.dumps(card))
        seal_folder(folder, card["digest"])
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        save_training(Path(name) / "training" / "t.safetensors", tower, optimiser, TrainingState(losses=[1.0]))
        training = (Path(name) / "training" / "t.safetensors").read_bytes()
        write_json_entry(Path(name) / "trials" / "t.json", {"learning_rate": 0.001, "score": 12.5})
        trial = (Path(name) / "trials" / "t.json").read_bytes()

    def same(found: TextTower) -> None:
        good = tower.state_dict()
        right(all(torch.equal(value, good[name]) for name, value in found.state_dict().items()), "every weight")

    def loaded(folder: Path) -> None:
        same(load_tower(folder)[0])
        right(load_card(folder).model_dump(exclude_unset=True, mode="json") == card, "the card")

    yield Reader("tower", files, loaded)

    def resumed(folder: Path) -> None:
        fresh = TextTower(TowerConfig.model_validate(shape))
        state = load_training(folder / "training" / "t.safetensors", fresh, torch.optim.AdamW(fresh.parameters(), lr=0.1))
        same(fresh)
        right(state == TrainingState(losses=[1.0]), "every loss")

    yield Reader("training", {"training/t.safetensors": training}, resumed)

    def tried(folder: Path) -> None:
        stored = stored_trial(folder / "trials" / "t.json")
        right(stored is None or stored.score == 12.5, "the score")

    yield Reader("trial", {"trials/t.json": trial}, tried)


def kept_readers() -> Iterator[Reader]:
    """Yield readers of the hashes of seen captions, of embeddings, and of model configurations."""
    from harness.encoders.open_clip.model_files import folder_files
    from harness.records.towers import load_seen
    from harness.storage.embeddings import get_or_compute
    from harness.storage.store import Store

    seen = io.BytesIO()
    np.save(seen, np.arange(4, dtype=np.uint64))
    yield Reader("seen", {"seen.npy": seen.getvalue()}, load_seen)

    matrix = np.ones((3, 4), dtype=np.float32)
    with tempfile.TemporaryDirectory() as name:
        get_or_compute(Store(Path(name)), "key", 3, lambda *_: iter([matrix]), 9)
        kept = Store(Path(name)).embeddings("key").read_bytes()

    def embeddings(folder: Path) -> None:
        found = get_or_compute(Store(folder), "key", 3, lambda *_: iter([matrix]), 9)
        right(np.array_equal(found, matrix), "broken embeddings are computed anew")

    yield Reader("embeddings", {"embeddings/key.safetensors": kept}, embeddings)
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 6, "vision_cfg": {}, "text_cfg": text}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    model = {"open_clip_config.json": json.dumps(config).encode()}
    yield Reader("open-clip-config", model, lambda f: folder_files(f).digest(), {"open_clip_model.safetensors": b"x"})


def state_readers() -> Iterator[Reader]:
    """Yield readers of token states and of teacher states."""
    from harness.distill.model.teacher import teacher_states
    from harness.storage.embeddings import get_or_compute_states
    from harness.storage.store import Store

    of = TokenStates(np.eye(4, dtype=np.float32), np.array([1, 1, 2]), np.ones((3, 4), dtype=np.float32))
    teacher = Reading(of)
    with tempfile.TemporaryDirectory() as name:
        get_or_compute_states(Store(Path(name)), "key", 3, lambda: iter([of]))
        teacher_states(teacher, "abc", Store(Path(name)), lambda _: None)
        folders = {path.relative_to(name).as_posix(): path.read_bytes() for path in Path(name).rglob("*/*/*") if path.is_file()}

    def states(folder: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            bags = get_or_compute_states(Store(folder), "key", 3, lambda: iter([of]))
            found = teacher_states(teacher, "abc", Store(folder), lambda _: None)
        right(np.array_equal(bags.rows, of.tokens) and bags.lengths.tolist() == [1, 1, 2], "broken states are computed anew")
        right(np.array_equal(found.tokens, of.tokens) and np.array_equal(found.pooled, of.pooled), "and those of a teacher")

    yield Reader("states", folders, states)


class Reading:
    """A teacher with the same states for three texts."""

    def __init__(self, states: TokenStates) -> None:
        self.states = states

    def fingerprint(self) -> str:
        """One that never changes."""
        return "reading"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """Return the means of the states."""
        return self.encode_tokens(texts, lang).pooled

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Return the states."""
        right(len(texts) == len(self.states.lengths), "three texts")
        return self.states


def put(path: Path, data: bytes) -> None:
    """Write a file, which may exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# Running


class TooSlow(BaseException):
    """The alarm. It is no Exception, so no reader can catch it."""


def attempt(reader: Reader, number: int, folder: Path) -> str:
    """Try one input and return the outcome: `read`, `refused`, or a description of the failure."""
    source = random.Random(f"{reader.name} {number}")
    folder.mkdir()
    place = source.choice(sorted(reader.seeds))
    for path, data in {**reader.beside, **reader.seeds}.items():
        # Input 0 is the valid file itself.
        put(folder / path, mutated(data, source) if path == place and number else data)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(folder)
    except HarnessError as error:
        said = str(error)
        if "\n" in said.strip() or len(said) > 2_000:
            return f"a message of {len(said):,} characters and {said.count(chr(10)) + 1} lines: {said[:200]!r}"
        if not number:
            return f"a good file is refused: {said[:200]!r}"
        return "refused" if str(folder) in said else f"a message that does not name the file: {said[:200]!r}"
    except TooSlow:
        return f"more than {SECONDS} s"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:160]!r} at {Path(last.filename).name}:{last.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def slow(*_: object) -> None:
    """Raise the alarm."""
    raise TooSlow


def main() -> int:
    """Fuzz, print a table of the outcomes, and fail if any input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=int, help="how many, over all readers")
    parser.add_argument("--reader", help="one alone, by name")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    given = parser.parse_args()
    chosen = [reader for reader in readers() if given.reader in (None, reader.name)]
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + BYTES, virtual + BYTES))
    signal.signal(signal.SIGALRM, slow)
    warnings.simplefilter("ignore")
    each = -(-given.inputs // len(chosen))
    wrong: dict[str, list[str]] = {}
    for reader in chosen:
        began, went = time.monotonic(), Counter[str]()
        for number in range(given.first, given.first + each):
            folder = Path(tempfile.mkdtemp(prefix="fuzz-")) / "data"
            outcome = attempt(reader, number, folder)
            went[outcome if outcome in ("read", "refused") else "WRONG"] += 1
            if outcome not in ("read", "refused"):
                wrong.setdefault(f"{reader.name}: {outcome}", []).append(str(number))
            shutil.rmtree(folder.parent, ignore_errors=True)
        counts = ", ".join(f"{went[kind]:,} {kind}" for kind in ("read", "refused", "WRONG") if went[kind])
        print(f"{reader.name:20} {counts}, {time.monotonic() - began:.1f} s", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size) / 1024
    print(f"{each * len(chosen):,} inputs for {len(chosen)} readers; at most {grown:,.0f} MiB beyond the start")
    for what, numbers in wrong.items():
        print(f"WRONG {what} (inputs {', '.join(numbers[:5])}; {len(numbers)} in all)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
