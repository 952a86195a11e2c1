"""What a caption says, before any language says it: five plans a scene, from everything down to next to nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from harness.tasks.sample.scenes import PEOPLE, Actor, Scene, Thing, bernoulli, choose

TYPES = {
    "people": ("man", "woman", "boy", "girl", "person"),
    "animals": ("dog", "cat", "horse", "cow", "animal"),
    "clothing": ("shirt", "dress", "jacket", "hat"),
    "vehicles": ("bicycle", "car", "bus", "boat"),
    "instruments": ("guitar", "drum", "trumpet"),
    "other": ("ball", "umbrella", "book", "bench", "chair"),
}
# By level: the parts of a clause of which one is left unsaid, and how often the place is named.
FORGETTABLE = {
    1: ("hat", "beside"),
    2: ("garment", "hat", "beside"),
    3: ("hat", "beside"),
    4: ("garment", "hat", "beside"),
}
PLACE_NAMED = {1: 0.8, 2: 0.65, 3: 0.6, 4: 0.6}
TYPE_OF_KIND = {kind: name for name, kinds in TYPES.items() for kind in kinds}


@dataclass(frozen=True)
class Mention:
    """A thing as a caption names it. `role` says which thing of the scene it is; no colour means that none is named."""

    role: str
    kind: str
    colour: str = ""

    @property
    def type(self) -> str:
        """Its type in Flickr30k Entities; a place is a scene."""
        return TYPE_OF_KIND.get(self.kind, "scene")


@dataclass(frozen=True)
class Clause:
    """Who does what with what beside what."""

    subject: Mention
    action: str
    garment: Mention | None = None
    hat: Mention | None = None
    object: Mention | None = None
    beside: Mention | None = None


@dataclass(frozen=True)
class CaptionPlan:
    """The content of one caption: one or two clauses and perhaps the place. `wording` picks among synonyms."""

    clauses: tuple[Clause, ...]
    place: Mention | None
    wording: int = 0


def mentions_by_role(scene: Scene) -> dict[str, Mention]:
    """Every thing of a scene by its role, in a fixed order: what a chain of Flickr30k Entities is."""
    found: dict[str, Mention] = {}
    for number, actor in enumerate(scene.actors):
        parts = {"actor": Thing(actor.kind, actor.colour), "garment": actor.garment, "hat": actor.hat, "object": actor.object}
        found |= {f"{part}{number}": _mention(f"{part}{number}", thing) for part, thing in parts.items() if thing}
    if scene.beside:
        found["beside"] = _mention("beside", scene.beside)
    found["place"] = Mention("place", scene.place)
    return found


def _mention(role: str, thing: Thing) -> Mention:
    return Mention(role, thing.kind, thing.colour)


def full_plan(scene: Scene) -> CaptionPlan:
    """The plan that leaves nothing out."""
    named = mentions_by_role(scene)
    return CaptionPlan(tuple(_clause(named, number, actor) for number, actor in enumerate(scene.actors)), named["place"])


def sample_plan(rng: Random, whole: CaptionPlan, level: int) -> CaptionPlan:
    """What is left of everything in the caption of a level, 0 (all of it) to 4 (next to nothing)."""
    clauses, place = whole.clauses, whole.place
    if level >= 3:
        clauses = (choose(rng, clauses),)
    if level:
        clauses = tuple(_forget(rng, clause, FORGETTABLE[level]) for clause in clauses)
    if level == 4:
        clauses = (_vague(rng, clauses[0]),)
    if level and not bernoulli(rng, PLACE_NAMED[level]):
        place = None
    return CaptionPlan(clauses, place, int(rng.random() * 1_000_000))


def _clause(named: dict[str, Mention], number: int, actor: Actor) -> Clause:
    # The bystander is named once: next to the first actor.
    return Clause(
        subject=named[f"actor{number}"],
        action=actor.action,
        garment=named.get(f"garment{number}"),
        hat=named.get(f"hat{number}"),
        object=named.get(f"object{number}"),
        beside=named.get("beside") if number == 0 else None,
    )


def _forget(rng: Random, clause: Clause, parts: tuple[str, ...]) -> Clause:
    """Leave one of the given parts unsaid, of those that are there."""
    present = [part for part in parts if getattr(clause, part)]
    forgotten: dict[str, Any] = {choose(rng, present): None} if present else {}
    return replace(clause, **forgotten)


def _vague(rng: Random, clause: Clause) -> Clause:
    """Say only one of: who exactly, what colour the thing is, what they wear."""
    subject = clause.subject
    if bernoulli(rng, 0.25):
        subject = replace(subject, kind="person" if subject.kind in PEOPLE else "animal")
    elif bernoulli(rng, 0.5):
        return replace(clause, hat=None, beside=None)
    held = replace(clause.object, colour="") if clause.object and bernoulli(rng, 0.5) else clause.object
    return replace(clause, subject=subject, object=held, hat=None if clause.garment else clause.hat)
