"""Records of others: checked one by one, then merged all at once or not at all."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness.api import HarnessError, Ints
from harness.grounding import grounding_scores
from harness.leaderboards.publish import RESULTS
from harness.measures import DEPTH
from harness.plan import ENGLISH
from harness.ranking import CUTOFFS, MISSED, Ranks, chance, scores
from harness.record import FACET, MEASURE, QUERIES, RECORD, Record, load_measures, load_record, read_queries, reading
from harness.seals import seal
from harness.search import Searched
from harness.store import new_folder
from harness.translation import TRANSLATE_TEST

MOST_BYTES = {RECORD: 1 << 20, QUERIES: 64 << 20}
COLUMNS = ("direction", "query", "image", "rank")
GROUNDED = ("pointed", "found")
NAMED = 10


def submit(folder: Path, into: Path | None) -> str:
    """Merge the records below `folder` into `into`, by default this project's own, as a folder of the same name; say how many.

    Raises HarnessError, and merges nothing, if a record is not one, does not reproduce its scores from its ranks, or is there
    already with other ranks: each by its path, with the reason.
    """
    target = (into or RESULTS) / folder.resolve().name
    if not folder.is_dir():
        raise HarnessError(f"{folder} is not a folder of records")
    if target.exists():
        raise HarnessError(f"{target} is there already: rename {folder}, so that its records get a folder of their own")
    paths = sorted(path.parent for path in folder.rglob(RECORD))
    if not paths:
        raise HarnessError(f"{folder} holds no {RECORD} at any depth: nothing to merge")
    known = {path.parent.name: path.parent for path in sorted((into or RESULTS).rglob(RECORD))}
    new: list[tuple[Path, str]] = []
    refused = []
    for path in paths:
        try:
            record = checked(path)
            if not is_known(path, record, known, new):
                new.append((path, record.cell))
        except HarnessError as error:
            refused.append(str(error))
    if refused:
        more = f"; and {len(refused) - NAMED:,} more" if len(refused) > NAMED else ""
        counts = f"{len(refused):,} of {len(paths):,} records refused, none merged"
        raise HarnessError(f"{counts}: {'; '.join(refused[:NAMED])}{more}")
    if new:
        with new_folder(target) as temporary:
            for path, cell in new:
                (temporary / cell).mkdir()
                for name in (RECORD, QUERIES):
                    shutil.copyfile(path / name, temporary / cell / name)
                seal(temporary / cell, cell)
            temporary.chmod(0o755)
    return f"{len(new):,} records merged into {target}, {len(paths) - len(new):,} were there already"


def is_known(path: Path, record: Record, known: dict[str, Path], new: list[tuple[Path, str]]) -> bool:
    """Whether the very same ranks are there already. Raises HarnessError if the cell is there with other ranks."""
    other = known.get(record.cell) or next((folder for folder, cell in new if cell == record.cell), None)
    if other is None:
        return False
    if not np.array_equal(ranks_of(path), ranks_of(other)):
        raise HarnessError(f"{path} is of the same cell as {other}, with other ranks: keep one of them")
    return True


def ranks_of(folder: Path) -> Ints:
    """All ranks of a record."""
    ranks: Ints = read_queries(folder, "rank")["rank"].to_numpy()
    return ranks


def checked(folder: Path) -> Record:
    """A record that holds what it must and reproduces its scores. Raises HarnessError naming the folder and what is wrong."""
    for name, most in MOST_BYTES.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise HarnessError(f"{path} is not a file")
        if path.stat().st_size > most:
            raise HarnessError(f"{path} has {path.stat().st_size:,} bytes: a record's has at most {most:,}")
    record = load_record(folder)
    with reading(folder / QUERIES):
        faults = next(faults_of(folder, record), None)
    if faults:
        raise HarnessError(f"{folder}: {faults}")
    return record


def faults_of(folder: Path, record: Record) -> Iterator[str]:
    """What is wrong with a record, the first thing first: later checks rely on earlier ones."""
    if not re.fullmatch("[0-9a-f]{64}", record.cell):
        yield "its cell is not a digest of 64 hexadecimal digits"
    asking = images_asking(record)
    if record.text_tower != tower_of(record):
        yield f"its text tower is {record.text_tower!r}, but the tower's card says otherwise"
    yield from column_faults(folder, record)
    if record.sought == "regions":
        yield from grounding_faults(folder, record)
        return
    table = {name: read_queries(folder, name)[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
    text = table["direction"] == "t2i"
    if not (text[: record.captions].all() and (table["direction"][record.captions :] == "i2t").all()):
        yield f"its ranks are not {record.captions:,} of captions (t2i), then {asking:,} of images (i2t)"
    queries, images = table["query"][~text], table["image"]
    if not np.array_equal(queries, images[~text]) or len(set(queries)) < len(queries):
        yield "its image queries are not each image of the gallery, once"
    if len(set(table["query"][text])) < record.captions:
        yield "two of its captions have one id"
    if (set(images[text]) != set(queries)) if asking else (len(set(images)) != record.images):
        yield "its captions are not of the images of its gallery, each of which has one or more"
    if not np.issubdtype(table["rank"].dtype, np.integer):
        yield "a rank is missing"
    yield from rank_faults(record, table["rank"], images) if asking else search_faults(folder, record, table["rank"])


def tower_of(record: Record) -> str:
    """What a record's cards say of its text tower."""
    return record.tower.config.objective if record.tower else TRANSLATE_TEST if record.translations else ENGLISH


def images_asking(record: Record) -> int:
    """How many images are queries themselves: none where something else than images is looked for."""
    return record.images if record.sought == "images" else 0


def column_faults(folder: Path, record: Record) -> Iterator[str]:
    """What is wrong with the columns, seen before any is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        shape = pq.read_metadata(folder / QUERIES)
        schema = pq.read_schema(folder / QUERIES)
    except (OSError, pa.ArrowException) as error:
        yield f"{QUERIES} cannot be read: {str(error).splitlines()[0]}"
        return
    asking = images_asking(record)
    if shape.num_rows != record.captions + asking:
        yield f"{QUERIES} has {shape.num_rows:,} ranks, expected {record.captions:,} of captions and {asking:,} of images"
    expected = (*COLUMNS, *GROUNDED) if record.sought == "regions" else COLUMNS
    beside = (FACET, MEASURE) if record.sought == "texts" else (FACET,)
    other = [name for name in schema.names if name not in expected and not name.startswith(beside)]
    lacking = [name for name in expected if name not in schema.names]
    if other or lacking:
        yield f"{QUERIES} has the columns {schema.names}, expected {', '.join(expected)}, and none but facets beside them"
    elif not pa.types.is_integer(schema.field("rank").type) or any(not is_text(schema.field(name).type) for name in COLUMNS[:3]):
        yield f"{QUERIES} must have ranks that are whole numbers, and text in its other columns"


def grounding_faults(folder: Path, record: Record) -> Iterator[str]:
    """What is wrong with the ranks of phrases, or the scores said to come of them. Chance hangs on what a record has not."""
    table = {name: read_queries(folder, name)[name].to_numpy(zero_copy_only=False) for name in (*COLUMNS, "pointed")}
    if not (table["direction"] == "t2i").all():
        yield "its ranks are not all of phrases (t2i)"
    if len(set(table["query"])) < record.captions:
        yield "two of its phrases have one id"
    if len(set(table["image"])) > record.images:
        yield f"its phrases are of {len(set(table['image'])):,} images, more than its gallery of {record.images:,}"
    ranks, pointed = table["rank"], table["pointed"]
    if not np.issubdtype(ranks.dtype, np.integer) or pointed.dtype != bool:
        yield "a rank is missing, or whether a phrase pointed right"
    if ranks.min() < 1:
        yield f"its ranks go from {ranks.min():,}, expected 1 or more"
    yield from unlike("scores", record.scores, grounding_scores(ranks.astype(np.int64), pointed))
    if set(record.chance) != {f"t2i_r{k}" for k in CUTOFFS} or not all(0 <= value <= 100 for value in record.chance.values()):
        yield "its chance is not three hit rates in percent"


def is_text(kind: object) -> bool:
    """Whether a column's type is text, plain or by dictionary."""
    import pyarrow as pa

    value = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def rank_faults(record: Record, ranks: Ints, images: object) -> Iterator[str]:
    """What is wrong with the ranks, or with the scores said to come of them."""
    t2i, i2t = ranks[: record.captions].astype(np.int64), ranks[record.captions :].astype(np.int64)
    for side, values, most in (("t2i", t2i, record.images), ("i2t", i2t, record.captions)):
        if values.min() < 1 or values.max() > most:
            yield f"its {side} ranks go from {values.min():,} to {values.max():,}, expected 1 to {most:,}"
    names = np.asarray(images)
    places = {name: place for place, name in enumerate(names[record.captions :])}
    owner = np.array([places[name] for name in names[: record.captions]], dtype=np.int64)
    yield from unlike("scores", record.scores, scores(Ranks(t2i, i2t)))
    yield from unlike("chance", record.chance, chance(owner, record.images))


def search_faults(folder: Path, record: Record, ranks: Ints) -> Iterator[str]:
    """What is wrong with a record whose queries look for texts. What chance is hangs on the texts, which no record holds."""
    kept = ranks[ranks != MISSED]
    if ranks.min() < 1 or (len(kept) and kept.max() > min(record.documents or 0, DEPTH)):
        yield f"its ranks go from {ranks.min():,} to {kept.max():,}, expected 1 to {min(record.documents or 0, DEPTH):,}"
    values = load_measures(folder)
    for name, of in values.items():
        if len(of) != record.captions or not ((of >= 0) & (of <= 100 + 1e-4)).all():
            yield f"its {name} is not a number from 0 to 100 for each of {record.captions:,} queries"
    yield from unlike("scores", record.scores, Searched(ranks, values, {}).scores())
    named = {*(f"t2i_r{k}" for k in CUTOFFS), *values}
    if set(record.chance) != named or not all(0 <= value <= 100 for value in record.chance.values()):
        yield "its chance is not its hit rates and measures in percent"
    if record.headline not in {*(f"R@{k}" for k in CUTOFFS), *values}:
        yield f"its headline is {record.headline}, which it does not measure"


def unlike(what: str, said: Mapping[str, float], true: Mapping[str, float]) -> Iterator[str]:
    """What is said and does not come out."""
    wrong = [name for name in true if not math.isclose(said.get(name, math.nan), true[name], rel_tol=1e-9, abs_tol=1e-9)]
    if wrong:
        yield f"its {what} do not reproduce: {wrong[0]} is {said.get(wrong[0])}, but its ranks give {true[wrong[0]]}"
    elif set(said) != set(true):
        yield f"its {what} name {sorted(set(said) - set(true))}, which nothing measures"
