"""Drawing of a scene: positions, sizes and colours. Captions do not mention what is chosen here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from harness.tasks.sample.backdrops import H, W, between, draw_backdrop
from harness.tasks.sample.brush import Brush, DrawnBox
from harness.tasks.sample.figures import Rig, draw_animal, draw_person, draw_vehicle, sample_look
from harness.tasks.sample.scenes import ANIMALS, CHILDREN, Actor, Scene, Thing, bernoulli, choose

# The width that a figure needs, in hundredths of its height.
PERSON_ROOM, WIDE_ROOM, DOG_ROOM = 64, 116, 130
ANIMAL_ROOM = 124
VEHICLE_ROOM = {"car": 154, "bus": 188, "boat": 158}
HEIGHTS = {"man": 178, "woman": 166, "boy": 124, "girl": 122, "dog": 86, "cat": 72, "horse": 150, "cow": 124}
VEHICLE_HEIGHTS = {"car": 118, "bus": 128, "boat": 112}
WIDE_ACTIONS = frozenset({"cycle", "ride", "sit", "umbrella", "trumpet", "run"})


@dataclass(frozen=True)
class _Figure:
    """A figure to place: an actor with its number, or the bystander."""

    height: int
    room: int
    actor: Actor | None = None
    number: int = 0
    thing: Thing | None = None


def draw_scene(scene: Scene, rng: Random) -> tuple[Image.Image, dict[str, DrawnBox]]:
    """Return the picture of a scene and the box of each thing by role."""
    brush = Brush()
    draw_backdrop(brush, rng, scene.place)
    placed = _place(_figures(scene), rng)
    for figure, rig in sorted(placed, key=lambda pair: pair[1].ground):
        _shadow(brush, rig)
        _draw(brush, figure, rig, rng)
    return brush.picture(), brush.boxes()


def _figures(scene: Scene) -> list[_Figure]:
    figures = [_actor_figure(actor, number) for number, actor in enumerate(scene.actors)]
    if scene.beside:
        kind = scene.beside.kind
        room = VEHICLE_ROOM.get(kind, ANIMAL_ROOM)
        height = VEHICLE_HEIGHTS[kind] if kind in VEHICLE_HEIGHTS else HEIGHTS[kind]
        figures.insert(0, _Figure(height, room, thing=scene.beside))  # next to actor 0
    return figures


def _actor_figure(actor: Actor, number: int) -> _Figure:
    if not actor.is_person:
        room = ANIMAL_ROOM
    elif actor.action == "walk dog":
        room = DOG_ROOM
    else:
        room = WIDE_ROOM if actor.action in WIDE_ACTIONS else PERSON_ROOM
    return _Figure(HEIGHTS[actor.kind], room, actor=actor, number=number)


def _place(figures: list[_Figure], rng: Random) -> list[tuple[_Figure, Rig]]:
    """Place the figures side by side in random order and distribute the free space randomly."""
    order = figures[::-1] if bernoulli(rng, 0.5) else figures
    scale = between(rng, 112, 138)
    needed = sum(figure.height * figure.room * scale // 10_000 for figure in order)
    if needed > W - 10:
        scale = scale * (W - 10) // needed
    widths = [figure.height * figure.room * scale // 10_000 for figure in order]
    free = max(0, W - 10 - sum(widths))
    shares = [between(rng, 10, 100) for _ in range(len(order) + 1)]
    left, placed = 5, []
    for figure, width, share in zip(order, widths, shares, strict=False):
        left += free * share // sum(shares)
        back = 24 if figure.thing else 0
        ground = H - 14 - back - between(rng, 0, 34)
        facing = choose(rng, (-1, 1))
        placed.append((figure, Rig(_middle(figure, left, width, facing), ground, figure.height * scale // 100, facing)))
        left += width
    return placed


def _middle(figure: _Figure, left: int, width: int, facing: int) -> int:
    """Return the horizontal position of a figure in its space. A person with a dog leaves space for the dog."""
    if figure.actor and figure.actor.action == "walk dog":
        return left + width // 2 - facing * width // 5
    return left + width // 2


def _shadow(brush: Brush, rig: Rig) -> None:
    half, flat = rig.height * 26 // 100, max(3, rig.height * 4 // 100)
    red, green, blue = brush.image.getpixel((min(W - 1, max(0, rig.x)), min(H - 1, rig.ground)))  # type: ignore[misc]
    shade = red * 4 // 5, green * 4 // 5, blue * 4 // 5
    brush.oval(rig.x - half, rig.ground - flat, rig.x + half, rig.ground + flat, shade, edge=False)


def _draw(brush: Brush, figure: _Figure, rig: Rig, rng: Random) -> None:
    if figure.thing:
        with brush.entity("beside"):
            if figure.thing.kind in ANIMALS:
                draw_animal(brush, rig, figure.thing.kind, figure.thing.colour, "stand")
            else:
                draw_vehicle(brush, rig, figure.thing)
    elif figure.actor and figure.actor.is_person:
        draw_person(brush, rig, figure.actor, sample_look(rng, figure.actor.kind in CHILDREN), figure.number)
    elif figure.actor:
        with brush.entity(f"actor{figure.number}"):
            draw_animal(brush, rig, figure.actor.kind, figure.actor.colour, figure.actor.action)
