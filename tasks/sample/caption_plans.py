"""The content of captions, independent of language: five plans for each scene, from full detail to very little."""

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
# By level: the parts of a clause of which one is omitted, and the probability that the place is named.
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
    """A thing as a caption names it. `role` identifies the thing in the scene. An empty colour is not named."""

    role: str
    kind: str
    colour: str = ""

    @property
    def type(self) -> str:
        """Its type in Flickr30k Entities. A place has the type scene."""
        return TYPE_OF_KIND.get(self.kind, "scene")


@dataclass(frozen=True)
class Clause:
    """A subject, its action and clothes, the object of the action, and what is beside the subject."""

    subject: Mention
    action: str
    garment: Mention | None = None
    hat: Mention | None = None
    object: Mention | None = None
    beside: Mention | None = None


@dataclass(frozen=True)
class CaptionPlan:
    """The content of a caption: one or two clauses and optionally the place. `wording` selects synonyms."""

    clauses: tuple[Clause, ...]
    place: Mention | None
    wording: int = 0


def mentions_by_role(scene: Scene) -> dict[str, Mention]:
    """Return every thing of a scene by role, in a fixed order. Each corresponds to a chain of Flickr30k Entities."""
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
    """Return the plan with all details of a scene."""
    named = mentions_by_role(scene)
    return CaptionPlan(tuple(_clause(named, number, actor) for number, actor in enumerate(scene.actors)), named["place"])


def sample_plan(rng: Random, whole: CaptionPlan, level: int) -> CaptionPlan:
    """Return a random reduction of a full plan to a level from 0 (all details) to 4 (very few)."""
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
    # The bystander is named once, next to the first actor.
    return Clause(
        subject=named[f"actor{number}"],
        action=actor.action,
        garment=named.get(f"garment{number}"),
        hat=named.get(f"hat{number}"),
        object=named.get(f"object{number}"),
        beside=named.get("beside") if number == 0 else None,
    )


def _forget(rng: Random, clause: Clause, parts: tuple[str, ...]) -> Clause:
    """Omit one of the given parts that the clause has."""
    present = [part for part in parts if getattr(clause, part)]
    forgotten: dict[str, Any] = {choose(rng, present): None} if present else {}
    return replace(clause, **forgotten)


def _vague(rng: Random, clause: Clause) -> Clause:
    """Reduce a clause: generalize the subject, or omit the hat and the neighbour, and perhaps the colour of the object."""
    subject = clause.subject
    if bernoulli(rng, 0.25):
        subject = replace(subject, kind="person" if subject.kind in PEOPLE else "animal")
    elif bernoulli(rng, 0.5):
        return replace(clause, hat=None, beside=None)
    held = replace(clause.object, colour="") if clause.object and bernoulli(rng, 0.5) else clause.object
    return replace(clause, subject=subject, object=held, hat=None if clause.garment else clause.hat)
