"""Names of records on the command line, and the pairing of records over the same queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.arms import STEPLESS, reads_entities, spell_arm, spell_objective, split_arm
from harness.core.builtins import OBJECTIVES
from harness.core.config import DistillConfig, field_label
from harness.core.errors import HarnessError
from harness.core.plugins import unnamed_code
from harness.core.suggestions import nearest
from harness.records.files import CARD_FILE, RECORD_FILE, load_record, record_folders
from harness.records.schema import ENGLISH_TOWER, TRANSLATE_TEST, Record
from harness.records.towers import load_card
from harness.storage.seals import load_readable

# Two records have the same queries if all of these fields are equal.
_WORLDS = "worlds"
_QUERY_FIELDS = {
    "sample": _WORLDS,
    "task": "task",
    "task_version": "task version",
    "lang": "language",
    "split": "split",
    "source": "caption source",
    "images_digest": "images",
    "texts_digest": "captions",
}
_ENCODER, _TOWER, _TRANSLATIONS = "image encoder", "text tower", "translations"
_SCORER, _PAIRS, ENTITY_WEIGHT = "scorer", "pairs", "entity weight"
_SHORTEST_DIGEST = 6  # the least number of digits of an abbreviated digest


@dataclass(frozen=True)
class StoredRecord:
    """A record and its folder."""

    folder: Path
    record: Record

    def queries(self) -> dict[str, object]:
        """Return the fields that two records over the same queries share, by their names in messages."""
        return {words: getattr(self.record, field) for field, words in _QUERY_FIELDS.items()}

    def recipe(self) -> dict[str, object]:
        """Return everything about encoder and text tower except the seed. Traits that an English tower lacks are None."""
        record = self.record
        shown = (record.scorer, record.regions.view, record.regions.digest) if record.regions else (record.scorer,)
        translated = record.translations and record.translations.digest
        made = {_ENCODER: record.encoder_fingerprint, _TOWER: record.text_tower, _TRANSLATIONS: translated, _SCORER: shown}
        return made | self.training()

    def training(self) -> dict[str, object]:
        """Return everything about the training of the text tower except arm and seed."""
        card = self.record.tower
        fields = [field for field in DistillConfig.model_fields if field not in {"objective", "init", "seed", "pairs", "steps"}]
        if card is None:
            return dict.fromkeys((_PAIRS, "steps", "teacher", *map(field_label, fields)))
        # The step at which early stopping ended is a result, and may differ between seeds of one recipe.
        steps = card.steps if card.config.patience is None else card.config.steps_for(card.bitext.used - card.config.held_out)
        made = {_PAIRS: card.bitext.used, "steps": steps, "teacher": card.teacher_fingerprint}
        made |= {field_label(field): getattr(card.requested, field) for field in fields}
        return made if weighs_entities(card.config.objective) else made | {ENTITY_WEIGHT: None}

    def seed(self) -> int | None:
        """Return the training seed, or None for the English tower."""
        return self.record.tower.config.seed if self.record.tower else None


def weighs_entities(objective: str) -> bool:
    """Return whether an objective reads entity tokens. Objectives of missing plug-ins are assumed not to."""
    return tower_spelling(objective) is not None and not unnamed_code(objective) and reads_entities(objective)


@dataclass(frozen=True)
class RecordPair:
    """Records over the same queries. Within a side they share one recipe and differ in the seed.

    a, b: in ascending order of seed.
    """

    a: tuple[StoredRecord, ...]
    b: tuple[StoredRecord, ...]


@dataclass(frozen=True)
class UnmatchedRecord:
    """A record without a counterpart, its side, and the reason."""

    side: str
    entry: StoredRecord
    reason: str


@dataclass(frozen=True)
class Pairing:
    """The pairs, and the records without a counterpart."""

    pairs: tuple[RecordPair, ...]
    left: tuple[UnmatchedRecord, ...]


def load_records(folder: Path) -> list[StoredRecord]:
    """Return every record below a folder, each cell once. Damaged records are named in a note and skipped."""
    entries = [StoredRecord(of, record) for of, record in load_readable(record_folders(folder), load_record)]
    return list({entry.record.cell: entry for entry in reversed(entries)}.values())[::-1]


def resolve_records(text: str, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Return the records that a name stands for: a folder, an arm, or the start of a digest of a cell or a tower.

    known: the records that arms and digests are looked up in. Raises HarnessError if the name matches nothing or several
    things.
    """
    folder = Path(text)
    if folder.is_dir():
        return records_in_folder(folder, known)
    spelling = tower_spelling(text)
    if spelling is not None:
        found = [entry for entry in known if entry.record.text_tower == spelling]
        have = sorted({entry.record.text_tower for entry in known}) or ["none"]
        return found or raise_no_records(
            f"no record has the text tower {spelling!r}, only {', '.join(have)}; measure it with `run`"
        )
    if re.fullmatch(f"[0-9a-f]{{{_SHORTEST_DIGEST},64}}", text):
        return records_by_digest(text, known)
    names = [*OBJECTIVES.names(), ENGLISH_TOWER, TRANSLATE_TEST, *STEPLESS]
    raise HarnessError(
        f"{text!r} is neither a folder, nor the first {_SHORTEST_DIGEST} or more digits of a digest "
        f"(see `list runs`, `towers list`), nor an arm: {nearest(text, names)}"
    )


def raise_no_records(message: str) -> list[StoredRecord]:
    """Raise an error where a list of records is expected."""
    raise HarnessError(message)


def tower_spelling(text: str) -> str | None:
    """Return the name under which records store a text tower, or None if the text names none."""
    if text in (ENGLISH_TOWER, TRANSLATE_TEST):
        return text
    try:
        objective, init = split_arm(text)
        return spell_arm(spell_objective(objective), init)
    except HarnessError:
        return None


def records_in_folder(folder: Path, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Return the record of a folder, the records of its tower, or the records below it."""
    if (folder / RECORD_FILE).is_file():
        return [StoredRecord(folder, load_record(folder))]
    if (folder / CARD_FILE).is_file():
        return records_of_towers({load_card(folder).digest}, known, f"the tower in {folder}")
    return load_records(folder) or raise_no_records(f"{folder} and its subfolders hold no {RECORD_FILE}")


def records_by_digest(start: str, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Return the cell, or the records of the tower, whose digest starts with the given digits."""
    cells = [entry for entry in known if entry.record.cell.startswith(start)]
    towers = {entry.record.tower.digest for entry in known if entry.record.tower and entry.record.tower.digest.startswith(start)}
    if len(cells) + len(towers) > 1:
        several = sorted([f"cell {entry.record.cell[:16]}" for entry in cells] + [f"tower {digest[:16]}" for digest in towers])
        raise HarnessError(f"digest {start} is ambiguous: {', '.join(several)}; give more digits")
    return cells or records_of_towers(
        towers, known, f"a cell or tower whose digest starts with {start} (see `list runs`, `towers list`)"
    )


def records_of_towers(digests: Iterable[str], known: Sequence[StoredRecord], what: str) -> list[StoredRecord]:
    """Return all records of some towers."""
    wanted = set(digests)
    found = [entry for entry in known if entry.record.tower and entry.record.tower.digest in wanted]
    return found or raise_no_records(f"there is no record of {what}")


def select_records(entries: Sequence[StoredRecord], langs: Sequence[str], pairs: int | None, name: str) -> list[StoredRecord]:
    """Return the records in these languages (all if empty) whose towers were distilled from this number of pairs.

    Raises HarnessError if none is left.
    """
    kept = [entry for entry in entries if not langs or entry.record.lang in langs]
    if not kept:
        have = sorted({entry.record.lang for entry in entries})
        raise HarnessError(f"--lang {','.join(langs)}: {name} has no record in this language, only in {', '.join(have)}")
    sizes = sorted({entry.record.tower.bitext.used for entry in kept if entry.record.tower})
    kept = [entry for entry in kept if pairs is None or entry.record.tower is None or entry.record.tower.bitext.used == pairs]
    if not kept:
        raise HarnessError(f"--pairs {pairs}: {name} has no tower of this size, only of {', '.join(map(str, sizes))}")
    return kept


def pair_records(a: Sequence[StoredRecord], b: Sequence[StoredRecord]) -> Pairing:
    """Pair records over the same queries.

    If a side has several recipes (bitext sizes, encoders, ...), the recipes that both sides have are paired. If each side has one
    recipe, the two are paired. Seeds of a recipe stay together: the common seeds, or all seeds if none is common.
    Raises HarnessError with the reasons if no records pair.
    """
    pairs = []
    for queries in sorted({tuple(entry.queries().values()) for entry in a}, key=str):
        sides = [[entry for entry in side if tuple(entry.queries().values()) == queries] for side in (a, b)]
        pairs += [pair_seeds(ours, theirs) for ours, theirs in split_by_recipe(sides[0], sides[1], list(a[0].recipe()))]
    same = [pair for pair in pairs if cell_keys(pair.a) == cell_keys(pair.b)]
    pairs = [pair for pair in pairs if pair not in same]
    left = []
    for side, ours, theirs in (("A", a, b), ("B", b, a)):
        used = {cell for pair in pairs for cell in cell_keys(pair.a if side == "A" else pair.b)}
        twins = {cell for pair in same for cell in cell_keys(pair.a)}
        for entry in ours:
            if entry.record.cell not in used:
                twin = entry.record.cell in twins
                left.append(
                    UnmatchedRecord(side, entry, "A and B are the same record" if twin else unmatched_reason(entry, ours, theirs))
                )
    if not pairs:
        raise HarnessError(f"no record of A can be paired with a record of B: {summarise_reasons(left)}")
    return Pairing(tuple(pairs), tuple(left))


def cell_keys(side: Iterable[StoredRecord]) -> tuple[str, ...]:
    """Return the cells of some records."""
    return tuple(entry.record.cell for entry in side)


def summarise_reasons(left: Sequence[UnmatchedRecord]) -> str:
    """Return the reasons why records were not paired, each once, those of A first."""
    reasons = list(dict.fromkeys(each.reason for each in left if each.side == "A")) or ["A has no record"]
    return "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else "")


def split_by_recipe(
    a: list[StoredRecord], b: list[StoredRecord], traits: Sequence[str]
) -> list[tuple[list[StoredRecord], list[StoredRecord]]]:
    """Split both sides by the traits that have several values, until each part has one recipe a side."""
    if not a or not b:
        return []
    for at, trait in enumerate(traits):
        ours, theirs = ({entry.recipe()[trait] for entry in side} for side in (a, b))
        if len(ours) == len(theirs) == 1:
            continue
        alone = {None} in (ours, theirs)  # an English tower lacks the trait and is paired with each value of the other side
        values = (ours | theirs) - {None} if alone else ours & theirs
        parts = (
            [with_trait(side, trait, {value, None} if alone else {value}) for side in (a, b)]
            for value in sorted(values, key=trait_sort_key)
        )
        return [pair for one, other in parts for pair in split_by_recipe(one, other, traits[at + 1 :])]
    return [(a, b)]


def with_trait(entries: Sequence[StoredRecord], trait: str, values: set[object]) -> list[StoredRecord]:
    """Return the records with one of these values of a trait."""
    return [entry for entry in entries if entry.recipe()[trait] in values]


def trait_sort_key(value: object) -> tuple[bool, float, str]:
    """Return a sort key: numbers by size, then words."""
    if isinstance(value, int | float):
        return False, float(value), ""
    return True, 0.0, str(value)


def pair_seeds(a: Sequence[StoredRecord], b: Sequence[StoredRecord]) -> RecordPair:
    """Return a pair of the common seeds, or of all seeds if none is common."""
    ours, theirs = records_by_seed(a), records_by_seed(b)
    common = ours.keys() & theirs.keys()
    sides = ([side[seed] for seed in sorted(common or side, key=str)] for side in (ours, theirs))
    return RecordPair(*map(tuple, sides))


def records_by_seed(entries: Sequence[StoredRecord]) -> dict[int | None, StoredRecord]:
    """Return the records of one recipe by seed. Raises HarnessError if two share a seed."""
    seeds: dict[int | None, StoredRecord] = {}
    for entry in entries:
        other = seeds.setdefault(entry.seed(), entry)
        if other is not entry:
            raise HarnessError(
                f"cells {other.record.cell[:12]} and {entry.record.cell[:12]} share recipe, seed and captions: name one of them"
            )
    return seeds


def unmatched_reason(entry: StoredRecord, mine: Sequence[StoredRecord], others: Sequence[StoredRecord]) -> str:
    """Return the difference between a record of one side and the nearest record of the other."""
    lang, ours = entry.record.lang, entry.queries()
    if all(other.record.lang != lang for other in others):
        return f"the other side has no record in {lang}"
    differing = min(([words for words, value in other.queries().items() if value != ours[words]] for other in others), key=len)
    if _WORLDS in differing:
        return f"{lang}: the embedded sample is not comparable with real photographs"
    if differing:
        return f"{lang}: different {' and '.join(differing)}"
    here, there = ([other.recipe() for other in side if other.queries() == ours] for side in (mine, others))
    for trait, value in entry.recipe().items():
        values = {recipe[trait] for recipe in there}
        several = len(values) > 1 or len({recipe[trait] for recipe in here}) > 1
        if several and value not in values:
            return f"{lang}: {trait} {short_value(value)} has no counterpart, only {', '.join(sorted(map(short_value, values)))}"
    return f"{lang}: seed {entry.seed()} is on one side only"


def short_value(value: object) -> str:
    """Format the value of a trait. Digests are abbreviated.

    >>> short_value("0ccdcc581b5f547757b89ba686978d33a3237eb3e178990bb3befef6c9ec1728"), short_value(None), short_value(1000)
    ('0ccdcc581b5f', 'none', '1000')
    """
    if value is None:
        return "none"
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{52}$", r"\1", str(value))
