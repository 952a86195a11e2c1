"""Drawing of people, animals, vehicles and held objects from simple shapes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from harness.tasks.sample.brush import Brush, CanvasPoint, Colour, darker
from harness.tasks.sample.scenes import CHILDREN, Actor, Thing, choose

PAINT_COLOURS: dict[str, Colour] = {
    "red": (214, 44, 44),
    "blue": (40, 96, 214),
    "green": (34, 150, 62),
    "yellow": (246, 208, 36),
    "white": (246, 246, 246),
    "black": (38, 38, 44),
    "brown": (136, 84, 44),
}
SKIN_COLOURS: tuple[Colour, ...] = ((247, 214, 186), (232, 184, 146), (196, 140, 98), (146, 96, 62), (104, 68, 46))
HAIR_COLOURS: tuple[Colour, ...] = ((44, 32, 26), (92, 60, 34), (150, 100, 50), (206, 166, 92), (150, 150, 150))
TROUSER_COLOURS: tuple[Colour, ...] = ((74, 82, 110), (116, 104, 84), (98, 98, 104), (150, 138, 116))
STEEL: Colour = (120, 124, 132)
WOOD: Colour = (160, 108, 60)
GOLD: Colour = (226, 178, 60)
INK: Colour = (36, 34, 40)
WHEEL: Colour = (52, 52, 58)
GLASS: Colour = (186, 220, 238)


@dataclass(frozen=True)
class Rig:
    """The position of a figure, the height of 100 of its units in pixels, and the direction that it faces (1: right)."""

    x: int
    ground: int
    height: int
    facing: int

    def at(self, across: int, up: int) -> CanvasPoint:
        """Return the point `across` units in front of the middle and `up` units above the ground."""
        return self.x + self.facing * across * self.height // 100, self.ground - up * self.height // 100

    def size(self, units: int) -> int:
        """Return a length in pixels."""
        return max(1, units * self.height // 100)

    def moved(self, across: int, up: int, height: int | None = None) -> Rig:
        """Return a copy at another position, or for a figure of another height."""
        x, ground = self.at(across, up)
        return Rig(x, ground, self.height if height is None else height, self.facing)


@dataclass(frozen=True)
class Look:
    """The appearance of a person that no caption mentions."""

    skin: Colour
    hair: Colour
    trousers: Colour
    beard: bool


def sample_look(rng: Random, child: bool) -> Look:
    """Return a random look. Only adults have grey hair."""
    return Look(
        choose(rng, SKIN_COLOURS),
        choose(rng, HAIR_COLOURS[:-1] if child else HAIR_COLOURS),
        choose(rng, TROUSER_COLOURS),
        rng.random() < 0.3,
    )


@dataclass(frozen=True)
class Pose:
    """Joints in units: two legs from hip to foot, two arms from shoulder to hand, and the height above the ground."""

    legs: tuple[tuple[CanvasPoint, ...], tuple[CanvasPoint, ...]]
    arms: tuple[tuple[CanvasPoint, ...], tuple[CanvasPoint, ...]]
    lift: int = 0


STRAIGHT_LEGS = (((-5, 40), (-6, 20), (-6, 3)), ((5, 40), (6, 20), (6, 3)))
SEATED_LEGS = (((-4, 40), (14, 36), (14, 16)), ((4, 40), (22, 36), (23, 16)))
LOWERED_ARM, LOWERED_FRONT_ARM = ((-10, 68), (-16, 54), (-17, 42)), ((10, 68), (16, 54), (17, 42))
POSES = {
    "stand": Pose(STRAIGHT_LEGS, (LOWERED_ARM, LOWERED_FRONT_ARM)),
    "walk": Pose(
        (((-4, 40), (-9, 22), (-17, 5)), ((4, 40), (12, 24), (13, 3))),
        (((-10, 68), (-17, 56), (-10, 46)), ((10, 68), (16, 55), (24, 48))),
    ),
    "run": Pose(
        (((-4, 40), (-14, 28), (-32, 30)), ((4, 40), (20, 36), (22, 14))),
        (((-10, 68), (-24, 62), (-26, 48)), ((10, 68), (22, 58), (32, 70))),
        lift=6,
    ),
    "jump": Pose(
        (((-4, 40), (-18, 34), (-20, 16)), ((4, 40), (18, 34), (20, 16))),
        (((-10, 68), (-22, 80), (-24, 98)), ((10, 68), (22, 80), (24, 98))),
        lift=22,
    ),
    "dance": Pose(
        (((-4, 40), (-5, 20), (-6, 3)), ((4, 40), (18, 30), (32, 22))),
        (((-10, 68), (-22, 64), (-30, 76)), ((10, 68), (18, 84), (12, 100))),
    ),
    "sit": Pose(SEATED_LEGS, (((-10, 68), (-14, 54), (2, 44)), ((10, 68), (16, 54), (20, 42))), lift=-13),
    "sit indoors": Pose(SEATED_LEGS, (((-10, 68), (-14, 54), (2, 44)), ((10, 68), (16, 54), (20, 42))), lift=-13),
    "cycle": Pose(
        (((-4, 40), (14, 32), (6, 14)), ((4, 40), (20, 36), (14, 20))),
        (((-8, 68), (12, 58), (30, 54)), ((10, 68), (22, 58), (34, 54))),
        lift=8,
    ),
    "ride": Pose(
        (((0, 40), (8, 38), (8, 36)), ((2, 40), (16, 32), (12, 12))),
        (((-8, 68), (6, 56), (22, 54)), ((10, 68), (20, 58), (28, 54))),
        lift=22,
    ),
    "guitar": Pose(STRAIGHT_LEGS, (((-10, 68), (-20, 56), (-2, 50)), ((10, 68), (22, 58), (27, 64)))),
    "drum": Pose(STRAIGHT_LEGS, (((-10, 68), (-14, 54), (10, 52)), ((10, 68), (20, 58), (24, 58)))),
    "trumpet": Pose(STRAIGHT_LEGS, (((-10, 68), (-4, 62), (16, 80)), ((10, 68), (20, 66), (24, 80)))),
    "ball": Pose(STRAIGHT_LEGS, (((-10, 68), (-14, 56), (8, 54)), ((10, 68), (20, 56), (24, 54)))),
    "umbrella": Pose(STRAIGHT_LEGS, (LOWERED_ARM, ((10, 68), (18, 60), (18, 74)))),
    "read": Pose(STRAIGHT_LEGS, (((-10, 68), (-17, 56), (-6, 54)), ((10, 68), (17, 56), (6, 54)))),
    "walk dog": Pose(
        (((-4, 40), (-9, 22), (-17, 5)), ((4, 40), (12, 24), (13, 3))),
        (((-10, 68), (-17, 56), (-10, 46)), ((10, 68), (18, 56), (26, 50))),
    ),
}


def draw_person(brush: Brush, rig: Rig, actor: Actor, look: Look, number: int) -> None:
    """Draw a person with clothes, hat and the object of their action."""
    pose = POSES[actor.action]
    body = rig.moved(0, pose.lift)
    with brush.entity(f"object{number}"):
        if actor.object:
            _behind(brush, rig, actor.object)
    with brush.entity(f"actor{number}"):
        _body(brush, body, actor, look, pose, number)
    if actor.action == "dance":
        _notes(brush, rig)
    if actor.object:
        if actor.object.kind == "dog":  # the leash belongs to no box
            brush.line([rig.at(26, 50), rig.at(40, 32), rig.at(54, 24)], 2, INK)
        with brush.entity(f"object{number}"):
            _before(brush, rig, actor.object)
        if actor.object.kind in ("guitar", "ball", "book", "umbrella"):  # the hands are in front of the object
            with brush.entity(f"actor{number}"):
                for arm in pose.arms:
                    if arm is not LOWERED_ARM:
                        brush.disc(body.at(*arm[-1]), body.size(4), look.skin)


def _body(brush: Brush, rig: Rig, actor: Actor, look: Look, pose: Pose, number: int) -> None:
    child = actor.kind in CHILDREN
    worn = actor.garment or Thing("shirt", "white")
    paint = PAINT_COLOURS[worn.colour]
    if actor.kind in ("woman", "girl"):
        _long_hair(brush, rig, look, child)
    legs = look.skin if worn.kind == "dress" else look.trousers
    for leg in pose.legs:
        joints = [rig.at(*joint) for joint in leg]
        brush.limb(joints, rig.size(9), legs)
        toe = leg[-1][0] + 5, leg[-1][1] - 1
        brush.limb([joints[-1], rig.at(*toe)], rig.size(6), (70, 52, 44))
    _arm(brush, rig, pose.arms[0], worn, look, number)
    with brush.entity(f"garment{number}"):
        _torso(brush, rig, worn, paint, seated=actor.action in ("sit", "sit indoors", "cycle", "ride"))
    _arm(brush, rig, pose.arms[1], worn, look, number)
    _head(brush, rig, actor, look, child)
    if actor.hat:
        with brush.entity(f"hat{number}"):
            _hat(brush, rig, PAINT_COLOURS[actor.hat.colour], child)


def _arm(brush: Brush, rig: Rig, arm: tuple[CanvasPoint, ...], worn: Thing, look: Look, number: int) -> None:
    joints = [rig.at(*joint) for joint in arm]
    brush.limb(joints, rig.size(7), look.skin)
    paint = PAINT_COLOURS[worn.colour]
    with brush.entity(f"garment{number}"):
        if worn.kind == "jacket":
            last = (joints[1][0] + 3 * joints[2][0]) // 4, (joints[1][1] + 3 * joints[2][1]) // 4
            brush.limb([joints[0], joints[1], last], rig.size(9), paint)
        elif worn.kind == "shirt":
            middle = (joints[0][0] + 2 * joints[1][0]) // 3, (joints[0][1] + 2 * joints[1][1]) // 3
            brush.limb([joints[0], middle], rig.size(9), paint)
        else:
            brush.limb([joints[0], joints[0]], rig.size(7), paint)


def _torso(brush: Brush, rig: Rig, worn: Thing, paint: Colour, seated: bool) -> None:
    if worn.kind == "dress":
        hem = [(-13, 32), (26, 28), (26, 38)] if seated else [(-22, 18), (22, 18)]
        brush.polygon([rig.at(*p) for p in ((-11, 73), (-9, 54), *hem, (9, 54), (11, 73))], paint)
        brush.line([rig.at(-9, 53), rig.at(9, 53)], rig.size(3), darker(paint))
        return
    low = 34 if worn.kind == "jacket" else 39
    half = 14 if worn.kind == "jacket" else 12
    brush.polygon([rig.at(*p) for p in ((-13, 73), (-half, low), (half, low), (13, 73), (6, 75), (-6, 75))], paint)
    if worn.kind == "jacket":
        inner: Colour = (214, 206, 190)
        brush.polygon([rig.at(*p) for p in ((-4, 75), (-2, low), (3, low), (5, 75))], inner)
        brush.line([rig.at(-11, 46), rig.at(-5, 46)], rig.size(2), darker(paint))
        brush.line([rig.at(6, 46), rig.at(11, 46)], rig.size(2), darker(paint))


def _skull(child: bool) -> tuple[int, int]:
    return (88, 14) if child else (87, 11)


def _long_hair(brush: Brush, rig: Rig, look: Look, child: bool) -> None:
    up, radius = _skull(child)
    if child:
        for side in (-1, 1):
            brush.limb([rig.at(side * 12, up), rig.at(side * 19, up - 12)], rig.size(8), look.hair)
        return
    left, top = rig.at(-radius - 3, up + 10)
    right, bottom = rig.at(radius + 3, up - 22)
    brush.oval(min(left, right), top, max(left, right), bottom, look.hair)


def _head(brush: Brush, rig: Rig, actor: Actor, look: Look, child: bool) -> None:
    up, radius = _skull(child)
    centre = rig.at(0, up)
    brush.disc(centre, rig.size(radius), look.skin)
    brush.pie(centre, rig.size(radius), 180, 360, look.hair)
    left, top = rig.at(-radius + 2, up + 5)
    right, bottom = rig.at(radius - 2, up - 6)
    brush.oval(min(left, right), top, max(left, right), bottom, look.skin, edge=False)
    if actor.kind == "man" and look.beard:
        brush.pie(rig.at(0, up - 3), rig.size(radius - 3), 0, 180, look.hair)
    if actor.kind == "boy":
        brush.polygon([rig.at(-5, up + radius - 2), rig.at(0, up + radius + 5), rig.at(4, up + radius - 2)], look.hair)
    for across in (-3, 6):
        brush.disc(rig.at(across, up), rig.size(2), INK, edge=False)
    mouth = (200, 60, 70) if actor.kind in ("woman", "girl") else (130, 60, 50)
    brush.line([rig.at(-1, up - 6), rig.at(5, up - 6)], rig.size(2), mouth)


def _hat(brush: Brush, rig: Rig, paint: Colour, child: bool) -> None:
    up, radius = _skull(child)
    crown = [(-radius + 2, up + 5), (-radius + 4, up + 18), (radius - 4, up + 18), (radius - 2, up + 5)]
    brush.polygon([rig.at(*p) for p in crown], paint)
    left, top = rig.at(-radius - 7, up + 8)
    right, bottom = rig.at(radius + 7, up + 3)
    brush.oval(min(left, right), top, max(left, right), bottom, paint)


def _notes(brush: Brush, rig: Rig) -> None:
    for across, up in ((-36, 92), (34, 84)):
        foot = rig.at(across, up)
        brush.disc(foot, rig.size(3), INK)
        brush.line([rig.at(across + 2, up), rig.at(across + 2, up + 12), rig.at(across + 8, up + 9)], rig.size(2), INK)


def _behind(brush: Brush, rig: Rig, thing: Thing) -> None:
    """Draw an object behind the person: a seat, a horse, a bicycle, a dog on a leash."""
    if thing.kind == "bench":
        for across in (-34, 34):
            brush.line([rig.at(across, 0), rig.at(across, 42)], rig.size(4), STEEL)
        for up in (24, 34, 42):
            brush.limb([rig.at(-40, up), rig.at(40, up)], rig.size(5), WOOD)
    elif thing.kind == "chair":
        for across in (-15, 15):
            brush.line([rig.at(across, 0), rig.at(across, 24)], rig.size(4), WOOD)
        brush.limb([rig.at(-15, 24), rig.at(-15, 56)], rig.size(5), WOOD)
        brush.limb([rig.at(-15, 24), rig.at(16, 24)], rig.size(6), WOOD)
    elif thing.kind == "horse":
        draw_animal(brush, rig.moved(0, 0, rig.height * 11 // 10), thing.kind, thing.colour, "stand")
    elif thing.kind == "bicycle":
        _bicycle(brush, rig, PAINT_COLOURS[thing.colour])


def _before(brush: Brush, rig: Rig, thing: Thing) -> None:
    """Draw an object in front of the person, such as one that they hold."""
    if thing.kind == "guitar":
        _guitar(brush, rig)
    elif thing.kind == "drum":
        _drum(brush, rig)
    elif thing.kind == "trumpet":
        brush.limb([rig.at(12, 82), rig.at(38, 82)], rig.size(4), GOLD)
        brush.polygon([rig.at(36, 82), rig.at(48, 90), rig.at(48, 74)], GOLD)
        brush.ring(rig.at(24, 79), rig.size(5), rig.size(2), darker(GOLD))
    elif thing.kind == "ball":
        brush.disc(rig.at(18, 57), rig.size(13), PAINT_COLOURS[thing.colour])
        brush.disc(rig.at(14, 62), rig.size(3), (255, 255, 255), edge=False)
    elif thing.kind == "umbrella":
        brush.line([rig.at(18, 62), rig.at(18, 120)], rig.size(3), WOOD)
        brush.pie(rig.at(16, 108), rig.size(34), 180, 360, PAINT_COLOURS[thing.colour])
        for across in (-6, 16, 38):
            brush.line([rig.at(across, 108), rig.at(16, 141)], 1, darker(PAINT_COLOURS[thing.colour]))
    elif thing.kind == "book":
        page: Colour = (250, 246, 230)
        brush.polygon([rig.at(-14, 64), rig.at(0, 61), rig.at(0, 48), rig.at(-14, 51)], page)
        brush.polygon([rig.at(14, 64), rig.at(0, 61), rig.at(0, 48), rig.at(14, 51)], page)
        for up in (53, 57):
            brush.line([rig.at(-11, up + 2), rig.at(-3, up)], 1, STEEL)
            brush.line([rig.at(11, up + 2), rig.at(3, up)], 1, STEEL)
    elif thing.kind == "dog":
        draw_animal(brush, rig.moved(48, 0, rig.height * 6 // 10), thing.kind, thing.colour, "stand")


def _guitar(brush: Brush, rig: Rig) -> None:
    brush.limb([rig.at(0, 50), rig.at(34, 68)], rig.size(4), (96, 60, 36))
    brush.disc(rig.at(36, 69), rig.size(4), (96, 60, 36))
    brush.disc(rig.at(-6, 46), rig.size(13), (206, 130, 54))
    brush.disc(rig.at(6, 52), rig.size(10), (206, 130, 54))
    brush.disc(rig.at(-6, 46), rig.size(12), (206, 130, 54), edge=False)
    brush.disc(rig.at(1, 50), rig.size(4), (70, 44, 28))
    brush.line([rig.at(-10, 45), rig.at(32, 67)], 1, (240, 230, 200))


def _drum(brush: Brush, rig: Rig) -> None:
    left, top = rig.at(-2, 46)
    right, bottom = rig.at(38, 12)
    left, right = min(left, right), max(left, right)
    band = rig.size(7)
    brush.oval(left, bottom - band, right, bottom + band, (176, 84, 96))
    brush.rectangle(left, top, right, bottom, (176, 84, 96))
    brush.oval(left, top - band, right, top + band, (244, 236, 216))
    brush.line([(left, bottom), ((left + right) // 2, top + band), (right, bottom)], 2, GOLD)
    for start, end in (((10, 52), (14, 48)), ((24, 58), (26, 48))):
        brush.line([rig.at(*start), rig.at(*end)], rig.size(2), WOOD)


def _bicycle(brush: Brush, rig: Rig, paint: Colour) -> None:
    for across in (-28, 32):
        brush.ring(rig.at(across, 17), rig.size(17), rig.size(4), WHEEL)
        brush.disc(rig.at(across, 17), rig.size(3), STEEL)
    frame = [(-28, 17), (-8, 42), (24, 44), (4, 16), (-28, 17)]
    brush.limb([rig.at(*p) for p in frame], rig.size(5), paint)
    brush.limb([rig.at(-8, 42), rig.at(4, 16)], rig.size(5), paint)
    brush.limb([rig.at(32, 17), rig.at(24, 46), rig.at(30, 56)], rig.size(5), paint)
    brush.limb([rig.at(-14, 46), rig.at(-2, 46)], rig.size(5), INK)


def draw_animal(brush: Brush, rig: Rig, kind: str, colour: str, action: str) -> None:
    """Draw an animal in profile: standing, running or asleep."""
    paint = PAINT_COLOURS[colour]
    if action == "sleep":
        _asleep(brush, rig, kind, paint)
        return
    {"dog": _dog, "cat": _cat, "horse": _horse, "cow": _cow}[kind](brush, rig, paint, action == "run")


def _four_legs(brush: Brush, rig: Rig, paint: Colour, spots: tuple[int, int], top: int, width: int, running: bool) -> None:
    back, front = spots
    if running:
        legs = ((back, -26), (back + 5, -16), (front - 5, 16), (front, 26))
    else:
        legs = ((back, -1), (back + 9, 1), (front - 9, -1), (front, 1))
    for number, (across, swing) in enumerate(legs):
        shade = darker(paint) if number in (1, 2) and paint != PAINT_COLOURS["black"] else paint
        knee = rig.at(across + swing // 2, top // 2)
        brush.limb([rig.at(across, top), knee, rig.at(across + swing, 12 if running else 2)], rig.size(width), shade)


def _oval_at(brush: Brush, rig: Rig, box: tuple[int, int, int, int], fill: Colour) -> None:
    (x0, y0), (x1, y1) = rig.at(box[0], box[1]), rig.at(box[2], box[3])
    brush.oval(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), fill)


def _eye(brush: Brush, rig: Rig, across: int, up: int) -> None:
    brush.disc(rig.at(across, up), rig.size(4), (250, 250, 250))
    brush.disc(rig.at(across + 1, up), rig.size(2), INK, edge=False)


def _dog(brush: Brush, rig: Rig, paint: Colour, running: bool) -> None:
    _four_legs(brush, rig, paint, (-32, 26), 36, 11, running)
    brush.limb([rig.at(-36, 52), rig.at(-52, 72)], rig.size(8), paint)
    _oval_at(brush, rig, (-42, 62, 36, 28), paint)
    brush.limb([rig.at(28, 52), rig.at(36, 70)], rig.size(18), paint)
    _oval_at(brush, rig, (22, 94, 54, 62), paint)
    _oval_at(brush, rig, (40, 80, 66, 62), paint)
    brush.disc(rig.at(65, 74), rig.size(4), INK)
    brush.limb([rig.at(28, 88), rig.at(22, 70)], rig.size(11), darker(paint) if paint != PAINT_COLOURS["black"] else (80, 80, 88))
    brush.line([rig.at(54, 62), rig.at(54, 54)], rig.size(6), (232, 110, 120))
    brush.line([rig.at(28, 60), rig.at(40, 54)], rig.size(5), (200, 60, 60))
    _eye(brush, rig, 42, 82)


def _cat(brush: Brush, rig: Rig, paint: Colour, running: bool) -> None:
    _four_legs(brush, rig, paint, (-28, 20), 32, 9, running)
    brush.limb([rig.at(-32, 44), rig.at(-48, 58), rig.at(-42, 84), rig.at(-52, 94)], rig.size(7), paint)
    _oval_at(brush, rig, (-36, 56, 28, 26), paint)
    for across in (20, 40):
        brush.polygon([rig.at(across - 7, 80), rig.at(across, 104), rig.at(across + 7, 82)], paint)
    brush.disc(rig.at(31, 70), rig.size(19), paint)
    for across in (25, 39):
        brush.disc(rig.at(across, 74), rig.size(4), (160, 206, 70))
        brush.line([rig.at(across, 72), rig.at(across, 76)], rig.size(2), INK)
    brush.disc(rig.at(33, 66), rig.size(3), (240, 150, 160))
    whisker = (210, 210, 210) if paint == PAINT_COLOURS["black"] else (70, 70, 74)
    for up in (62, 68):
        brush.line([rig.at(38, 65), rig.at(56, up)], 1, whisker)
        brush.line([rig.at(27, 65), rig.at(9, up)], 1, whisker)


def _horse(brush: Brush, rig: Rig, paint: Colour, running: bool) -> None:
    mane = (70, 48, 34) if paint != PAINT_COLOURS["black"] else (96, 92, 96)
    _four_legs(brush, rig, paint, (-34, 26), 40, 8, running)
    brush.limb([rig.at(-40, 58), rig.at(-54, 46), rig.at(-52, 22)], rig.size(8), mane)
    _oval_at(brush, rig, (-44, 66, 36, 34), paint)
    brush.polygon([rig.at(10, 60), rig.at(34, 94), rig.at(48, 90), rig.at(36, 46)], paint)
    brush.limb([rig.at(40, 90), rig.at(60, 76)], rig.size(14), paint)
    brush.polygon([rig.at(34, 94), rig.at(36, 106), rig.at(42, 96)], paint)
    brush.limb([rig.at(34, 96), rig.at(24, 82), rig.at(14, 66)], rig.size(6), mane)
    brush.disc(rig.at(62, 74), rig.size(2), INK, edge=False)
    _eye(brush, rig, 44, 88)


def _cow(brush: Brush, rig: Rig, paint: Colour, running: bool) -> None:
    _four_legs(brush, rig, paint, (-36, 26), 34, 9, running)
    brush.limb([rig.at(-44, 64), rig.at(-54, 50), rig.at(-52, 26)], rig.size(4), paint)
    brush.disc(rig.at(-54, 24), rig.size(4), (90, 70, 60))
    _oval_at(brush, rig, (-18, 34, -2, 20), (240, 160, 170))
    brush.polygon([rig.at(*p) for p in ((-46, 68), (-46, 34), (-36, 28), (30, 28), (38, 40), (36, 70))], paint)
    for across in (38, 56):
        brush.limb([rig.at(across, 82), rig.at(across + (across - 47) // 2, 94)], rig.size(5), (232, 220, 190))
    _oval_at(brush, rig, (30, 86, 62, 50), paint)
    _oval_at(brush, rig, (36, 62, 66, 46), (240, 170, 176))
    brush.limb([rig.at(28, 76), rig.at(34, 78)], rig.size(7), darker(paint))
    brush.disc(rig.at(58, 54), rig.size(2), INK, edge=False)
    _eye(brush, rig, 46, 72)
    brush.disc(rig.at(32, 44), rig.size(5), GOLD)


def _asleep(brush: Brush, rig: Rig, kind: str, paint: Colour) -> None:
    brush.limb([rig.at(-36, 12), rig.at(-54, 6)], rig.size(8 if kind != "cow" else 4), paint)
    _oval_at(brush, rig, (-42, 40, 34, 0), paint)
    brush.limb([rig.at(14, 6), rig.at(40, 4)], rig.size(9), paint)
    brush.limb([rig.at(-30, 5), rig.at(-10, 4)], rig.size(9), paint)
    if kind == "horse":
        brush.limb([rig.at(20, 26), rig.at(40, 44)], rig.size(18), paint)
        brush.limb([rig.at(42, 44), rig.at(60, 28)], rig.size(14), paint)
        brush.limb(
            [rig.at(14, 36), rig.at(36, 54)], rig.size(6), (70, 48, 34) if paint != PAINT_COLOURS["black"] else (96, 92, 96)
        )
    else:
        brush.disc(rig.at(42, 22), rig.size(18), paint)
    if kind == "cat":
        for across in (32, 50):
            brush.polygon([rig.at(across - 7, 34), rig.at(across, 52), rig.at(across + 7, 36)], paint)
    elif kind == "dog":
        _oval_at(brush, rig, (46, 24, 70, 6), paint)
        brush.disc(rig.at(69, 17), rig.size(4), INK)
        brush.limb(
            [rig.at(34, 34), rig.at(30, 16)], rig.size(11), darker(paint) if paint != PAINT_COLOURS["black"] else (80, 80, 88)
        )
    elif kind == "cow":
        _oval_at(brush, rig, (44, 18, 66, 2), (240, 170, 176))
        for across in (34, 52):
            brush.limb([rig.at(across, 38), rig.at(across + (across - 43) // 2, 50)], rig.size(5), (232, 220, 190))
    lid = (210, 210, 210) if paint == PAINT_COLOURS["black"] else INK
    brush.line([rig.at(42, 27 if kind != "horse" else 40), rig.at(49, 26 if kind != "horse" else 39)], rig.size(3), lid)
    for across, up, size in ((50, 60, 9), (62, 74, 13)):  # Z z
        points = [(across, up + size), (across + size, up + size), (across, up), (across + size, up)]
        # Letters read from left to right, whichever direction the animal faces.
        corners = [rig.at(*p) for p in points]
        mirrored = corners if rig.facing > 0 else [corners[1], corners[0], corners[3], corners[2]]
        brush.line(mirrored, 2, (90, 90, 130))


def draw_vehicle(brush: Brush, rig: Rig, thing: Thing) -> None:
    """Draw a car, a bus or a boat from the side."""
    {"car": _car, "bus": _bus, "boat": _boat}[thing.kind](brush, rig, PAINT_COLOURS[thing.colour])


def _wheels(brush: Brush, rig: Rig, spots: tuple[int, ...], radius: int) -> None:
    for across in spots:
        brush.disc(rig.at(across, radius), rig.size(radius), WHEEL)
        brush.disc(rig.at(across, radius), rig.size(radius // 2), (190, 192, 198))


def _car(brush: Brush, rig: Rig, paint: Colour) -> None:
    brush.polygon([rig.at(*p) for p in ((-46, 44), (-32, 72), (22, 72), (42, 44))], paint)
    brush.polygon([rig.at(*p) for p in ((-38, 46), (-28, 66), (-6, 66), (-6, 46))], GLASS)
    brush.polygon([rig.at(*p) for p in ((0, 46), (0, 66), (18, 66), (32, 46))], GLASS)
    brush.polygon([rig.at(*p) for p in ((-74, 14), (-74, 42), (-64, 48), (60, 48), (76, 36), (76, 14))], paint)
    brush.line([rig.at(-3, 18), rig.at(-3, 46)], 2, darker(paint))
    brush.disc(rig.at(72, 32), rig.size(4), (255, 240, 170))
    _wheels(brush, rig, (-44, 46), 15)


def _bus(brush: Brush, rig: Rig, paint: Colour) -> None:
    brush.polygon([rig.at(*p) for p in ((-92, 12), (-92, 92), (-86, 98), (86, 98), (92, 90), (92, 12))], paint)
    for across in (-84, -56, -28, 0, 28):
        brush.polygon([rig.at(*p) for p in ((across, 58), (across, 86), (across + 22, 86), (across + 22, 58))], GLASS)
    brush.polygon([rig.at(*p) for p in ((60, 16), (60, 86), (84, 86), (84, 16))], GLASS)
    brush.line([rig.at(72, 16), rig.at(72, 86)], 2, darker(paint))
    brush.line([rig.at(-90, 44), rig.at(56, 44)], rig.size(3), darker(paint))
    _wheels(brush, rig, (-58, 40), 15)


def _boat(brush: Brush, rig: Rig, paint: Colour) -> None:
    brush.line([rig.at(-4, 34), rig.at(-4, 128)], rig.size(4), WOOD)
    sail: Colour = (238, 228, 204)
    brush.polygon([rig.at(*p) for p in ((2, 124), (2, 42), (56, 46))], sail)
    brush.polygon([rig.at(*p) for p in ((-10, 112), (-10, 42), (-48, 46))], sail)
    brush.polygon([rig.at(*p) for p in ((-76, 36), (-54, 2), (52, 2), (80, 40))], paint)
    brush.line([rig.at(-68, 28), rig.at(72, 30)], rig.size(3), darker(paint))
