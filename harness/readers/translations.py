"""Reader of machine translations of captions into English: a table, or a file of xFlickr&CO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.core.data import Retrieval, Translated
from harness.core.errors import HarnessError
from harness.readers.caption_tables import read_table
from harness.readers.image_ids import photo_id
from harness.readers.text_files import check_caption, find_plain_or_gzip
from harness.readers.xflickr import read_xflickr_lines

XFLICKRCO = "xflickrco"


def read_translations(path: Path, retrieval: Retrieval) -> Translated:
    """Read the English translation of every caption of a retrieval. Translations of other captions are ignored.

    A `.tsv` file holds caption id, tab, English, in the form of `harness.readers.caption_tables`. The id of an image is enough if
    the image has one caption. A `.jsonl` file has the form of xFlickr&CO, one image a line, and translates its captions
    (`annotations_machine-translate/<lang>/test_gmt.jsonl`). Both may be gzip. Empty translations stay empty and are counted in
    the notes.
    Raises HarnessError naming a line that is malformed or repeated, or the captions without a translation.
    """
    found = find_plain_or_gzip(path)
    if found is None:
        raise HarnessError(
            f"{path} does not exist: --translations takes a .tsv (caption id, tab, English) or a .jsonl of xFlickr&CO"
        )
    kind = found.with_suffix("").suffix if found.suffix == ".gz" else found.suffix
    if kind not in (".tsv", ".jsonl"):
        raise HarnessError(f"{path}: --translations takes a .tsv (caption id, tab, English) or a .jsonl of xFlickr&CO")
    if kind == ".jsonl" and retrieval.source != XFLICKRCO:
        raise HarnessError(
            f"{path} translates the captions of xFlickr&CO, but the captions are from {retrieval.source}: "
            f"add --source {XFLICKRCO}, or give a .tsv with caption id, tab, English"
        )
    english = _by_caption(_xflickr(found) if kind == ".jsonl" else _tsv(found), found, retrieval)
    missing = [name for name in retrieval.caption_ids if name not in english]
    if missing:
        total = len(retrieval.caption_ids)
        raise HarnessError(
            f"{path} has no translation of {len(missing):,} of {total:,} {retrieval.lang} captions; the first is {missing[0]!r}"
        )
    texts = tuple(english[name] for name in retrieval.caption_ids)
    empty = sum(not text.strip() for text in texts)
    return Translated(texts, (f"{empty:,} of {len(texts):,} translations of {path.name} are empty",) if empty else ())


def _by_caption(lines: Iterator[tuple[int, str, str]], path: Path, retrieval: Retrieval) -> dict[str, str]:
    """Return the English translations by caption id."""
    owners = [retrieval.images.ids[image] for image in retrieval.caption_images.tolist()]
    counts = Counter(owners)
    only = {owner: name for owner, name in zip(owners, retrieval.caption_ids, strict=True) if counts[owner] == 1}
    names, english = frozenset(retrieval.caption_ids), dict[str, str]()
    for line, written, text in lines:
        image, mark, number = written.partition("#")
        bare = photo_id(image)
        several = next((name for name in (written, bare) if counts[name] > 1), None)
        if several and written not in names and not mark:
            raise HarnessError(
                f"{path}, line {line:,}: {several!r} has {counts[several]} captions: give caption ids such as {several}#0"
            )
        known = (written, f"{bare}{mark}{number}", only.get(written), only.get(bare) if not mark else None)
        name = next((name for name in known if name in names), None)
        if name is None:
            continue
        if name in english:
            raise HarnessError(f"{path}, line {line:,}: the caption {name!r} has a translation already")
        english[name] = text
    return english


def _tsv(path: Path) -> Iterator[tuple[int, str, str]]:
    for row in read_table(path, "caption id, tab, English").rows:
        yield row.line, row.name, row.text


def _xflickr(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(read_xflickr_lines(path), start=1):
        if isinstance(line.id, str):
            check_caption(f"{path}, line {number:,}", line.sentences[0])
            yield number, line.id, line.sentences[0]
