"""What two names on the command line mean, and which of their records can be laid side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.builtins import OBJECTIVES
from harness.core.config import DistillConfig, field_label
from harness.core.errors import HarnessError
from harness.core.objective_terms import STEPLESS, reads_entities, spell_objective
from harness.core.plugins import unnamed_code
from harness.core.suggestions import nearest
from harness.records.files import CARD_FILE, RECORD_FILE, load_record, record_folders
from harness.records.schema import ENGLISH_TOWER, TRANSLATE_TEST, Record
from harness.records.towers import load_card
from harness.storage.seals import load_readable

# Records are over the same queries where all of these are equal.
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
_SHORTEST_DIGEST = 6  # digits of a digest that may stand for the whole


@dataclass(frozen=True)
class StoredRecord:
    """A record and its folder."""

    folder: Path
    record: Record

    def queries(self) -> dict[str, object]:
        """What must be equal for two records to be over the same queries, in words."""
        return {words: getattr(self.record, field) for field, words in _QUERY_FIELDS.items()}

    def recipe(self) -> dict[str, object]:
        """How the encoder and its text tower came to be, but for the seed; None where an English tower has no such thing."""
        record = self.record
        shown = (record.scorer, record.regions.view, record.regions.digest) if record.regions else (record.scorer,)
        translated = record.translations and record.translations.digest
        made = {_ENCODER: record.encoder_fingerprint, _TOWER: record.text_tower, _TRANSLATIONS: translated, _SCORER: shown}
        return made | self.training()

    def training(self) -> dict[str, object]:
        """How the text tower was trained, but for objective and seed."""
        card = self.record.tower
        fields = [field for field in DistillConfig.model_fields if field not in {"objective", "seed", "pairs", "steps"}]
        if card is None:
            return dict.fromkeys((_PAIRS, "steps", "teacher", *map(field_label, fields)))
        # After how many steps the patience was at its end is no choice, and may differ between seeds of one recipe.
        steps = card.steps if card.config.patience is None else card.config.steps_for(card.bitext.used - card.config.held_out)
        made = {_PAIRS: card.bitext.used, "steps": steps, "teacher": card.teacher_fingerprint}
        made |= {field_label(field): getattr(card.requested, field) for field in fields}
        return made if weighs_entities(card.config.objective) else made | {ENTITY_WEIGHT: None}

    def seed(self) -> int | None:
        """The seed of training; None for the English tower, which has none."""
        return self.record.tower.config.seed if self.record.tower else None


def weighs_entities(objective: str) -> bool:
    """Whether an objective reads which tokens name something; one of a plug-in that is not here is taken not to."""
    return tower_spelling(objective) is not None and not unnamed_code(objective) and reads_entities(objective)


@dataclass(frozen=True)
class RecordPair:
    """Records over the same queries, trained alike within a side but for their seeds; a and b are in order of seed."""

    a: tuple[StoredRecord, ...]
    b: tuple[StoredRecord, ...]


@dataclass(frozen=True)
class UnmatchedRecord:
    """A record that was left out, on which side, and why."""

    side: str
    entry: StoredRecord
    reason: str


@dataclass(frozen=True)
class Pairing:
    """What was paired and what was not."""

    pairs: tuple[RecordPair, ...]
    left: tuple[UnmatchedRecord, ...]


def load_records(folder: Path) -> list[StoredRecord]:
    """Every record under a folder, each cell once. What is damaged is named in a note and left out."""
    entries = [StoredRecord(of, record) for of, record in load_readable(record_folders(folder), load_record)]
    return list({entry.record.cell: entry for entry in reversed(entries)}.values())[::-1]


def resolve_records(text: str, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """The records that a name stands for: a folder, an objective's spelling, or the start of a cell's or a tower's digest.

    known: where objectives and digests are looked up. Raises HarnessError if nothing has the name, or several have.
    """
    folder = Path(text)
    if folder.is_dir():
        return records_in_folder(folder, known)
    spelling = tower_spelling(text)
    if spelling is not None:
        found = [entry for entry in known if entry.record.text_tower == spelling]
        have = sorted({entry.record.text_tower for entry in known}) or ["none at all"]
        return found or raise_no_records(
            f"no record is of the text tower {spelling!r}: there are {', '.join(have)}; make one with `run`"
        )
    if re.fullmatch(f"[0-9a-f]{{{_SHORTEST_DIGEST},64}}", text):
        return records_by_digest(text, known)
    names = [*OBJECTIVES.names(), ENGLISH_TOWER, TRANSLATE_TEST, *STEPLESS]
    raise HarnessError(
        f"{text!r} is neither a folder, nor the first {_SHORTEST_DIGEST} or more digits of a digest "
        f"(see `list runs`, `towers list`), nor an objective: {nearest(text, names)}"
    )


def raise_no_records(message: str) -> list[StoredRecord]:
    """Say what is wrong, where a list of records was wanted."""
    raise HarnessError(message)


def tower_spelling(text: str) -> str | None:
    """The spelling under which records keep a text tower, or None if it is none."""
    if text in (ENGLISH_TOWER, TRANSLATE_TEST):
        return text
    try:
        return spell_objective(text)
    except HarnessError:
        return None


def records_in_folder(folder: Path, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """A record's folder, a tower's, or one that holds records."""
    if (folder / RECORD_FILE).is_file():
        return [StoredRecord(folder, load_record(folder))]
    if (folder / CARD_FILE).is_file():
        return records_of_towers({load_card(folder).digest}, known, f"the tower in {folder}")
    return load_records(folder) or raise_no_records(f"{folder} holds no {RECORD_FILE}, neither itself nor in a folder below")


def records_by_digest(start: str, known: Sequence[StoredRecord]) -> list[StoredRecord]:
    """The cell, or the records of the tower, whose digest starts so."""
    cells = [entry for entry in known if entry.record.cell.startswith(start)]
    towers = {entry.record.tower.digest for entry in known if entry.record.tower and entry.record.tower.digest.startswith(start)}
    if len(cells) + len(towers) > 1:
        several = sorted([f"cell {entry.record.cell[:16]}" for entry in cells] + [f"tower {digest[:16]}" for digest in towers])
        raise HarnessError(f"digest {start} is that of {', '.join(several)}: give more digits")
    return cells or records_of_towers(
        towers, known, f"a cell or tower whose digest starts with {start} (see `list runs`, `towers list`)"
    )


def records_of_towers(digests: Iterable[str], known: Sequence[StoredRecord], what: str) -> list[StoredRecord]:
    """All records of some towers."""
    wanted = set(digests)
    found = [entry for entry in known if entry.record.tower and entry.record.tower.digest in wanted]
    return found or raise_no_records(f"there is no record of {what}")


def select_records(entries: Sequence[StoredRecord], langs: Sequence[str], pairs: int | None, name: str) -> list[StoredRecord]:
    """The records in these languages, all where none is named, and of towers distilled from so many pairs.

    Raises HarnessError if none is left.
    """
    kept = [entry for entry in entries if not langs or entry.record.lang in langs]
    if not kept:
        have = sorted({entry.record.lang for entry in entries})
        raise HarnessError(f"--lang {','.join(langs)}: {name} has no record in it, only in {', '.join(have)}")
    sizes = sorted({entry.record.tower.bitext.used for entry in kept if entry.record.tower})
    kept = [entry for entry in kept if pairs is None or entry.record.tower is None or entry.record.tower.bitext.used == pairs]
    if not kept:
        raise HarnessError(f"--pairs {pairs}: {name} has no tower of so many pairs, only of {', '.join(map(str, sizes))}")
    return kept


def pair_records(a: Sequence[StoredRecord], b: Sequence[StoredRecord]) -> Pairing:
    """Lay records side by side where they are over the same queries, and say which could not be.

    Where a side has several recipes (sizes of the bitext, encoders ...), those that both sides have are paired; where each
    has one, the two are paired as they are. Seeds of a recipe stay together: those in common, or all where none is.
    Raises HarnessError if nothing pairs, with what keeps the nearest records apart.
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
                    UnmatchedRecord(side, entry, "the same record is A and B" if twin else unmatched_reason(entry, ours, theirs))
                )
    if not pairs:
        raise HarnessError(f"nothing of A can be paired with anything of B: {summarise_reasons(left)}")
    return Pairing(tuple(pairs), tuple(left))


def cell_keys(side: Iterable[StoredRecord]) -> tuple[str, ...]:
    """The cells of some records."""
    return tuple(entry.record.cell for entry in side)


def summarise_reasons(left: Sequence[UnmatchedRecord]) -> str:
    """Why records were left out, each reason once, the first of A first."""
    reasons = list(dict.fromkeys(each.reason for each in left if each.side == "A")) or ["A has no record"]
    return "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} reasons more" if len(reasons) > 3 else "")


def split_by_recipe(
    a: list[StoredRecord], b: list[StoredRecord], traits: Sequence[str]
) -> list[tuple[list[StoredRecord], list[StoredRecord]]]:
    """Part both sides by the traits of which one has several, until each part has one recipe a side."""
    if not a or not b:
        return []
    for at, trait in enumerate(traits):
        ours, theirs = ({entry.recipe()[trait] for entry in side} for side in (a, b))
        if len(ours) == len(theirs) == 1:
            continue
        alone = {None} in (ours, theirs)  # an English tower has no such trait: it meets each value of the other side
        values = (ours | theirs) - {None} if alone else ours & theirs
        parts = (
            [with_trait(side, trait, {value, None} if alone else {value}) for side in (a, b)]
            for value in sorted(values, key=trait_sort_key)
        )
        return [pair for one, other in parts for pair in split_by_recipe(one, other, traits[at + 1 :])]
    return [(a, b)]


def with_trait(entries: Sequence[StoredRecord], trait: str, values: set[object]) -> list[StoredRecord]:
    """The records with one of these values of a trait."""
    return [entry for entry in entries if entry.recipe()[trait] in values]


def trait_sort_key(value: object) -> tuple[bool, float, str]:
    """Sorts numbers by size, before words."""
    if isinstance(value, int | float):
        return False, float(value), ""
    return True, 0.0, str(value)


def pair_seeds(a: Sequence[StoredRecord], b: Sequence[StoredRecord]) -> RecordPair:
    """Both sides by seed: the seeds in common, or all of them where none is."""
    ours, theirs = records_by_seed(a), records_by_seed(b)
    common = ours.keys() & theirs.keys()
    sides = ([side[seed] for seed in sorted(common or side, key=str)] for side in (ours, theirs))
    return RecordPair(*map(tuple, sides))


def records_by_seed(entries: Sequence[StoredRecord]) -> dict[int | None, StoredRecord]:
    """Records of one recipe by seed. Raises HarnessError if two share one."""
    seeds: dict[int | None, StoredRecord] = {}
    for entry in entries:
        other = seeds.setdefault(entry.seed(), entry)
        if other is not entry:
            raise HarnessError(
                f"cells {other.record.cell[:12]} and {entry.record.cell[:12]} are of one recipe and seed over the same captions: "
                "name the one that is meant"
            )
    return seeds


def unmatched_reason(entry: StoredRecord, mine: Sequence[StoredRecord], others: Sequence[StoredRecord]) -> str:
    """What keeps a record of one side from the nearest of the other."""
    lang, ours = entry.record.lang, entry.queries()
    if all(other.record.lang != lang for other in others):
        return f"the other side has nothing in {lang}"
    differing = min(([words for words, value in other.queries().items() if value != ours[words]] for other in others), key=len)
    if _WORLDS in differing:
        return f"{lang}: the embedded sample is never compared with real photographs"
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
    """A trait's value, digests cut short.

    >>> short_value("0ccdcc581b5f547757b89ba686978d33a3237eb3e178990bb3befef6c9ec1728"), short_value(None), short_value(1000)
    ('0ccdcc581b5f', 'none', '1000')
    """
    if value is None:
        return "none"
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{52}$", r"\1", str(value))
