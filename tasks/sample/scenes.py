"""Random scenes: a place, one or two actors, and sometimes a vehicle or an animal beside them.

Only `Random.random()` is used, since Python guarantees its stream across versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")

PLACES = ("beach", "street", "park", "forest", "snow", "kitchen", "stage", "field", "river", "mountains", "room", "desert")
INDOORS = frozenset({"kitchen", "stage", "room"})
CLOTHING_COLOURS = ("red", "blue", "green", "yellow", "white", "black")
FUR_COLOURS = ("black", "white", "brown")
PEOPLE = ("man", "woman", "boy", "girl")
CHILDREN = ("boy", "girl")
ANIMALS = ("dog", "cat", "horse", "cow")
PETS = ("dog", "cat")
GARMENTS = {
    "man": ("shirt", "jacket"),
    "boy": ("shirt", "jacket"),
    "woman": ("dress", "dress", "shirt", "jacket"),
    "girl": ("dress", "dress", "shirt", "jacket"),
}
# The kind of object of each action.
ACTIONS: dict[str, str | None] = {
    "run": None,
    "walk": None,
    "stand": None,
    "jump": None,
    "dance": None,
    "sleep": None,
    "sit": "bench",
    "sit indoors": "chair",
    "cycle": "bicycle",
    "ride": "horse",
    "guitar": "guitar",
    "drum": "drum",
    "trumpet": "trumpet",
    "ball": "ball",
    "umbrella": "umbrella",
    "read": "book",
    "walk dog": "dog",
}
OUTDOOR_ACTIONS = (
    *("run", "walk", "stand", "jump", "dance", "sit", "cycle", "ride", "guitar", "drum", "trumpet"),
    *("ball", "umbrella", "read", "walk dog"),
)
INDOOR_ACTIONS = ("stand", "jump", "dance", "sit indoors", "guitar", "drum", "trumpet", "ball", "umbrella", "read", "walk dog")
ANIMAL_ACTIONS = ("run", "stand", "sleep")
CARS_ALLOWED = ("street", "park", "snow", "field", "mountains", "desert", "beach")
BUSES_ALLOWED = ("street", "mountains", "desert")
BOATS_ALLOWED = ("beach", "river")
COLOURED_THINGS = frozenset({"bicycle", "ball", "umbrella", "car", "bus", "boat"})


@dataclass(frozen=True, order=True)
class Thing:
    """A visible thing and its colour, or "" if captions do not mention the colour."""

    kind: str
    colour: str = ""


@dataclass(frozen=True, order=True)
class Actor:
    """A person or an animal with its action, clothes and object. The colour of an animal is that of its fur."""

    kind: str
    action: str
    colour: str = ""
    garment: Thing | None = None
    hat: Thing | None = None
    object: Thing | None = None

    @property
    def is_person(self) -> bool:
        """Whether the actor is a person and not an animal."""
        return self.kind in PEOPLE


@dataclass(frozen=True)
class Scene:
    """All that captions can mention. Positions and shades are chosen when the scene is drawn."""

    place: str
    actors: tuple[Actor, ...]
    beside: Thing | None

    def key(self) -> str:
        """Return a key of the contents of the scene, independent of the order of actors. Equal scenes have equal keys."""
        return repr((self.place, sorted(repr(actor) for actor in self.actors), self.beside))


def choose(rng: Random, options: Sequence[T]) -> T:
    """Return one of the options with equal probability."""
    return options[int(rng.random() * len(options))]


def bernoulli(rng: Random, probability: float) -> bool:
    """Return True with a probability."""
    return rng.random() < probability


def sample_scene(rng: Random) -> Scene:
    """Return a random plausible scene, without a bus in a kitchen or a boat in a desert."""
    place = choose(rng, PLACES)
    first = _person(rng, place) if bernoulli(rng, 0.88) else _animal(rng, place)
    actors = [first]
    if bernoulli(rng, 0.5):
        second = _person(rng, place) if bernoulli(rng, 0.6) or not first.is_person else _animal(rng, place)
        # Captions of two actors of one kind with one action would be ambiguous.
        if (second.kind, second.action) != (first.kind, first.action) and not _crowded(first, second):
            actors.append(second)
    beside = _bystander(rng, place, actors) if bernoulli(rng, 0.4) else None
    return Scene(place, tuple(actors), beside)


def _crowded(first: Actor, second: Actor) -> bool:
    """Return whether two actors need more space than a picture has."""
    wide = {"cycle", "ride"}
    return first.action in wide and (second.action in wide or second.kind in {"horse", "cow"})


def _person(rng: Random, place: str) -> Actor:
    kind = choose(rng, PEOPLE)
    action = choose(rng, INDOOR_ACTIONS if place in INDOORS else OUTDOOR_ACTIONS)
    garment = Thing(choose(rng, GARMENTS[kind]), choose(rng, CLOTHING_COLOURS))
    hat = Thing("hat", choose(rng, CLOTHING_COLOURS)) if bernoulli(rng, 0.4) else None
    tool = ACTIONS[action]
    held = None if tool is None else Thing(tool, _colour_of(rng, tool))
    return Actor(kind, action, garment=garment, hat=hat, object=held)


def _animal(rng: Random, place: str) -> Actor:
    kind = choose(rng, PETS if place in INDOORS else ANIMALS)
    return Actor(kind, choose(rng, ANIMAL_ACTIONS), colour=choose(rng, FUR_COLOURS))


def _colour_of(rng: Random, kind: str) -> str:
    if kind in COLOURED_THINGS:
        return choose(rng, CLOTHING_COLOURS)
    return choose(rng, FUR_COLOURS) if kind in ANIMALS else ""


def _bystander(rng: Random, place: str, actors: Sequence[Actor]) -> Thing | None:
    allowed = {"car": CARS_ALLOWED, "bus": BUSES_ALLOWED, "boat": BOATS_ALLOWED}
    kinds = [kind for kind, places in allowed.items() if place in places]
    taken = {actor.kind for actor in actors} | {actor.object.kind for actor in actors if actor.object}
    kinds += [kind for kind in (PETS if place in INDOORS else ANIMALS) if kind not in taken]
    if not kinds:
        return None
    kind = choose(rng, kinds)
    return Thing(kind, _colour_of(rng, kind))
