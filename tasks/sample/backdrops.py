"""Backdrops of the twelve places. Each is randomized, so no two pictures share a backdrop."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from harness.tasks.sample.brush import PICTURE_HEIGHT, PICTURE_WIDTH, SCALE, Brush, Colour
from harness.tasks.sample.scenes import bernoulli, choose

W, H = PICTURE_WIDTH * SCALE, PICTURE_HEIGHT * SCALE
HORIZON = H * 52 // 100
SKIES: tuple[Colour, ...] = ((150, 206, 240), (176, 220, 246), (196, 214, 228), (248, 206, 164), (168, 190, 226))
TRUNK: Colour = (112, 78, 50)
LEAVES: tuple[Colour, ...] = ((74, 148, 70), (92, 164, 84), (58, 128, 66), (120, 160, 70))


def between(rng: Random, low: int, high: int) -> int:
    """Return a random integer from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def draw_backdrop(brush: Brush, rng: Random, place: str) -> None:
    """Draw the backdrop of a place over the whole canvas."""
    PAINTERS[place](brush, rng)


def _sky(brush: Brush, rng: Random, colour: Colour | None = None) -> None:
    brush.rectangle(0, 0, W, H, colour or choose(rng, SKIES), edge=False)
    if bernoulli(rng, 0.5):
        brush.disc((between(rng, 30, W - 30), between(rng, 24, 60)), between(rng, 16, 26), (255, 226, 120), edge=False)
    for _ in range(between(rng, 0, 3)):
        _cloud(brush, between(rng, 20, W - 60), between(rng, 20, 70), between(rng, 10, 18))
    if bernoulli(rng, 0.25):
        x, y = between(rng, 40, W - 40), between(rng, 20, 80)
        brush.line([(x - 10, y - 6), (x, y), (x + 10, y - 6)], 3, (70, 70, 80))


def _cloud(brush: Brush, x: int, y: int, size: int) -> None:
    for dx, dy, radius in ((0, 0, size), (size, -size // 2, size), (2 * size, 0, size), (size, size // 3, size)):
        brush.disc((x + dx, y + dy), radius, (250, 252, 255), edge=False)


def _ground(brush: Brush, rng: Random, colour: Colour, top: int = HORIZON) -> None:
    shift = between(rng, -10, 10)
    red, green, blue = (min(255, max(0, value + shift)) for value in colour)
    brush.rectangle(0, top, W, H, (red, green, blue), edge=False)


def _tree(brush: Brush, rng: Random, x: int, ground: int, size: int) -> None:
    brush.rectangle(x - size // 8, ground - size, x + size // 8, ground, TRUNK)
    leaves = choose(rng, LEAVES)
    for dx, dy in ((-size // 3, 0), (size // 3, 0), (0, -size // 3)):
        brush.disc((x + dx, ground - size + dy), size * 2 // 5, leaves)
    brush.disc((x, ground - size), size * 2 // 5, leaves, edge=False)


def _fir(brush: Brush, x: int, ground: int, size: int, leaves: Colour) -> None:
    brush.rectangle(x - size // 12, ground - size // 4, x + size // 12, ground, TRUNK)
    for step in range(3):
        half, low = size * (4 - step) // 12, ground - size // 6 - step * size // 4
        brush.polygon([(x - half, low), (x, low - size * 2 // 5), (x + half, low)], leaves)


def _hills(brush: Brush, rng: Random, colour: Colour) -> None:
    for _ in range(3):
        x, radius = between(rng, 0, W), between(rng, 90, 160)
        brush.oval(x - radius, HORIZON - between(rng, 30, 60), x + radius, HORIZON + 90, colour)


def _tufts(brush: Brush, rng: Random, colour: Colour, count: int) -> None:
    for _ in range(count):
        x, y = between(rng, 0, W), between(rng, HORIZON + 20, H - 5)
        brush.line([(x - 4, y - 7), (x, y), (x + 4, y - 8)], 2, colour)


def _beach(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    shore = HORIZON + between(rng, 20, 40)
    brush.rectangle(0, HORIZON - 40, W, shore, (52, 142, 196), edge=False)
    for _ in range(8):
        x, y = between(rng, 0, W), between(rng, HORIZON - 34, shore - 12)
        brush.line([(x, y), (x + between(rng, 14, 34), y)], 3, (150, 206, 232))
    _ground(brush, rng, (238, 214, 158), shore)
    brush.line([(0, shore), (W // 3, shore + 4), (2 * W // 3, shore - 3), (W, shore + 2)], 6, (246, 250, 252))
    if bernoulli(rng, 0.6):
        x = choose(rng, (between(rng, 10, 60), between(rng, W - 60, W - 10)))
        brush.limb([(x, shore + 60), (x + 6, shore - 40), (x - 4, shore - 110)], 10, (150, 110, 70))
        for dx, dy in ((-46, 14), (46, 14), (-34, -20), (34, -20), (-12, 36)):
            brush.limb([(x - 4, shore - 110), (x + dx, shore - 110 + dy)], 8, (70, 140, 70))
    for _ in range(between(rng, 2, 6)):
        brush.disc((between(rng, 0, W), between(rng, shore + 30, H - 6)), 4, (226, 190, 150))


def _street(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    x = -between(rng, 0, 30)
    while x < W:
        width, top = between(rng, 60, 100), between(rng, 30, 110)
        wall = choose(rng, ((196, 170, 150), (176, 160, 160), (206, 190, 164), (168, 176, 186), (190, 150, 130)))
        brush.rectangle(x, top, x + width, HORIZON + 40, wall)
        for wx in range(x + 10, x + width - 16, 26):
            for wy in range(top + 12, HORIZON, 34):
                brush.rectangle(wx, wy, wx + 14, wy + 18, choose(rng, ((214, 232, 240), (250, 232, 170), (120, 140, 160))))
        x += width
    brush.rectangle(0, HORIZON + 34, W, HORIZON + 66, (196, 194, 190), edge=False)
    _ground(brush, rng, (116, 116, 122), HORIZON + 66)
    start = between(rng, 0, 60)
    for dash in range(start - 60, W, 90):
        brush.rectangle(dash, H - 34, dash + 46, H - 26, (240, 236, 220), edge=False)


def _park(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    _ground(brush, rng, (128, 190, 96))
    path = between(rng, 100, W - 100)
    brush.polygon([(path - 20, HORIZON), (path + 20, HORIZON), (path + 130, H), (path - 60, H)], (222, 204, 170), edge=False)
    for _ in range(between(rng, 3, 5)):
        _tree(brush, rng, between(rng, 10, W - 10), HORIZON + between(rng, 4, 30), between(rng, 60, 100))
    x = between(rng, 30, W - 30)
    brush.line([(x, HORIZON + 30), (x, HORIZON - 60)], 5, (70, 74, 80))
    brush.disc((x, HORIZON - 66), 9, (255, 244, 190))
    for _ in range(between(rng, 8, 18)):
        petal = choose(rng, ((238, 130, 170), (250, 250, 250), (250, 220, 100)))
        brush.disc((between(rng, 0, W), between(rng, HORIZON + 40, H - 4)), 4, petal)


def _forest(brush: Brush, rng: Random) -> None:
    brush.rectangle(0, 0, W, H, choose(rng, ((150, 184, 150), (170, 196, 150), (130, 170, 150))), edge=False)
    leaves: tuple[Colour, ...] = ((38, 92, 54), (50, 108, 60), (62, 120, 66))
    for _ in range(9):
        _fir(brush, between(rng, 0, W), HORIZON + between(rng, 0, 30), between(rng, 130, 210), choose(rng, leaves))
    _ground(brush, rng, (104, 112, 62), HORIZON + 24)
    for _ in range(3):
        x = choose(rng, (between(rng, 0, 90), between(rng, W - 90, W)))
        brush.rectangle(x - 12, 0, x + 12, HORIZON + between(rng, 40, 70), (96, 68, 46))
    for _ in range(between(rng, 2, 5)):
        x, y = between(rng, 0, W), between(rng, HORIZON + 50, H - 8)
        brush.rectangle(x - 3, y, x + 3, y + 9, (240, 230, 210))
        brush.pie((x, y), 8, 180, 360, (196, 90, 60))
    _tufts(brush, rng, (70, 84, 44), 10)


def _snow(brush: Brush, rng: Random) -> None:
    _sky(brush, rng, choose(rng, ((204, 218, 232), (186, 204, 226), (220, 226, 234))))
    _hills(brush, rng, (226, 234, 244))
    _ground(brush, rng, (238, 242, 248))
    for _ in range(between(rng, 2, 4)):
        x, ground, size = between(rng, 10, W - 10), HORIZON + between(rng, 0, 26), between(rng, 80, 140)
        _fir(brush, x, ground, size, (86, 124, 110))
        brush.polygon(
            [(x - size // 9, ground - size * 4 // 5), (x, ground - size), (x + size // 9, ground - size * 4 // 5)],
            (250, 252, 255),
        )
    if bernoulli(rng, 0.35):
        x = between(rng, 40, W - 40)
        brush.disc((x, HORIZON + 20), 22, (250, 252, 255))
        brush.disc((x, HORIZON - 10), 15, (250, 252, 255))
        brush.polygon([(x, HORIZON - 12), (x + 16, HORIZON - 8), (x, HORIZON - 6)], (240, 140, 50))
    for _ in range(50):
        brush.disc((between(rng, 0, W), between(rng, 0, H)), between(rng, 2, 4), (255, 255, 255), edge=False)


def _kitchen(brush: Brush, rng: Random) -> None:
    wall = choose(rng, ((244, 232, 206), (222, 234, 226), (236, 222, 226)))
    brush.rectangle(0, 0, W, H, wall, edge=False)
    floor = HORIZON + 50
    for row in range(5):
        for column in range(9):
            shade: Colour = (206, 196, 184) if (row + column) % 2 else (170, 158, 148)
            brush.rectangle(column * 56, floor + row * 28, column * 56 + 56, floor + row * 28 + 28, shade, edge=False)
    wood = choose(rng, ((186, 140, 96), (150, 170, 176), (206, 186, 150)))
    for x in range(0, W, 80):
        brush.rectangle(x, 10, x + 76, 70, wood)
        brush.disc((x + 66, 58), 4, (90, 80, 70))
        brush.rectangle(x, floor - 74, x + 76, floor, wood)
        brush.disc((x + 66, floor - 60), 4, (90, 80, 70))
    brush.rectangle(0, floor - 84, W, floor - 72, (120, 116, 118))
    stove = between(rng, 0, 3) * 80
    brush.rectangle(stove, floor - 74, stove + 76, floor, (206, 210, 216))
    brush.rectangle(stove + 12, floor - 56, stove + 64, floor - 14, (60, 60, 66))
    brush.rectangle(stove + 20, floor - 104, stove + 54, floor - 84, (150, 152, 160))
    fridge = W - between(rng, 70, 100) if bernoulli(rng, 0.6) else between(rng, 330, 380)
    brush.rectangle(fridge, 40, fridge + 70, floor + 6, (228, 232, 236))
    brush.line([(fridge, 110), (fridge + 70, 110)], 2, (150, 154, 160))
    brush.line([(fridge + 10, 120), (fridge + 10, 150)], 4, (150, 154, 160))


def _stage(brush: Brush, rng: Random) -> None:
    brush.rectangle(0, 0, W, H, choose(rng, ((60, 46, 76), (48, 52, 84), (74, 50, 66))), edge=False)
    floor = HORIZON + 60
    for x in (between(rng, 80, 150), between(rng, 200, 280), between(rng, 330, 400)):
        brush.polygon([(x - 10, 0), (x + 10, 0), (x + 70, floor + 40), (x - 70, floor + 40)], (122, 112, 132), edge=False)
    brush.rectangle(0, floor, W, H, (176, 124, 76), edge=False)
    for y in range(floor + 18, H, 22):
        brush.line([(0, y), (W, y)], 2, (146, 98, 58))
    curtain = choose(rng, ((150, 44, 70), (120, 50, 120), (56, 92, 120)))
    for x in (0, 22, 44, W - 66, W - 44, W - 22):
        brush.rectangle(x, 0, x + 22, floor + 14, curtain)
    for x in range(0, W, 40):
        brush.pie((x + 20, 0), 22, 0, 180, curtain)


def _field(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    _ground(brush, rng, (206, 186, 92), HORIZON - 10)
    middle = between(rng, 180, 300)
    for x in range(-W, 2 * W, 60):
        brush.line([(middle + (x - middle) // 4, HORIZON - 10), (x, H)], 4, (170, 150, 64))
    for x in range(0, W, 44):
        brush.rectangle(x, HORIZON - 32, x + 6, HORIZON + 4, (150, 116, 84))
    brush.rectangle(0, HORIZON - 26, W, HORIZON - 20, (150, 116, 84))
    brush.rectangle(0, HORIZON - 12, W, HORIZON - 6, (150, 116, 84))
    for _ in range(between(rng, 0, 3)):
        x, y = between(rng, 20, W - 20), HORIZON + between(rng, 10, 40)
        brush.oval(x - 26, y - 20, x + 26, y + 20, (222, 190, 96))
        brush.ring((x, y), 10, 3, (170, 136, 60))
    if bernoulli(rng, 0.4):
        x = between(rng, 30, W - 110)
        brush.rectangle(x, HORIZON - 80, x + 80, HORIZON - 20, (170, 84, 70))
        brush.polygon([(x - 8, HORIZON - 80), (x + 40, HORIZON - 116), (x + 88, HORIZON - 80)], (110, 80, 74))


def _river(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    _hills(brush, rng, (120, 168, 110))
    _ground(brush, rng, (120, 176, 92), HORIZON - 10)
    top, bottom = HORIZON + between(rng, 0, 14), HORIZON + between(rng, 54, 70)
    bend = between(rng, -16, 16)
    bank = [(0, top), (W // 2, top + bend), (W, top), (W, bottom), (W // 2, bottom + bend), (0, bottom)]
    brush.polygon(bank, (70, 150, 206))
    for _ in range(9):
        x, y = between(rng, 0, W), between(rng, top + 18, bottom - 16)
        brush.line([(x, y), (x + 10, y - 3), (x + 20, y)], 2, (190, 224, 240))
    for _ in range(between(rng, 3, 6)):
        x = between(rng, 0, W)
        for dx in (-6, 0, 6):
            brush.line([(x + dx, bottom + 12), (x + dx * 2, bottom - 26)], 3, (86, 120, 60))
        brush.oval(x - 4, bottom - 44, x + 4, bottom - 24, (120, 80, 50))
    for _ in range(between(rng, 2, 5)):
        x, y = between(rng, 0, W), between(rng, bottom + 16, H - 10)
        brush.oval(x - 12, y - 7, x + 12, y + 7, (160, 160, 160))


def _mountains(brush: Brush, rng: Random) -> None:
    _sky(brush, rng)
    for layer in range(4):
        x, top = between(rng, 0, W), between(rng, 20, 90)
        half = between(rng, 110, 170)
        rock = choose(rng, ((120, 124, 140), (138, 132, 138), (106, 116, 130)))
        low = HORIZON + 20
        brush.polygon([(x - half, low), (x, top), (x + half, low)], rock)
        cap = (low - top) // 3
        inset = half * cap // (low - top)
        tooth = inset // 3
        snow = [(x - inset, top + cap), (x, top), (x + inset, top + cap), (x + tooth, top + cap - 12), (x, top + cap + 8)]
        brush.polygon([*snow, (x - tooth, top + cap - 12)], (246, 248, 252), edge=layer > 4)
    _ground(brush, rng, (140, 150, 110), HORIZON + 10)
    for _ in range(between(rng, 3, 6)):
        x, y, size = between(rng, 0, W), between(rng, HORIZON + 20, H - 20), between(rng, 10, 22)
        brush.polygon(
            [(x - size, y), (x - size // 2, y - size), (x + size // 2, y - size * 3 // 4), (x + size, y)], (130, 128, 128)
        )
    _tufts(brush, rng, (100, 116, 74), 8)


def _room(brush: Brush, rng: Random) -> None:
    wall = choose(rng, ((200, 214, 226), (232, 214, 200), (214, 226, 200), (226, 206, 222)))
    brush.rectangle(0, 0, W, H, wall, edge=False)
    floor = HORIZON + 40
    brush.rectangle(0, floor, W, H, (190, 146, 104), edge=False)
    brush.rectangle(0, floor - 8, W, floor, (246, 242, 236), edge=False)
    for x in range(between(rng, -40, 0), W, 70):
        brush.line([(x, floor), (x - 40, H)], 2, (164, 120, 82))
    window = between(rng, 30, W - 150)
    brush.rectangle(window, 30, window + 110, 130, (250, 250, 250))
    brush.rectangle(window + 8, 38, window + 102, 122, choose(rng, SKIES))
    brush.line([(window + 55, 36), (window + 55, 124)], 5, (250, 250, 250))
    frame = (window + 190) % (W - 60)
    brush.rectangle(frame, 40, frame + 56, 90, (150, 110, 70))
    brush.rectangle(frame + 6, 46, frame + 50, 84, choose(rng, ((200, 150, 140), (150, 190, 200), (220, 210, 150))))
    sofa = between(rng, 20, W - 200)
    cloth = choose(rng, ((150, 110, 150), (110, 140, 130), (176, 130, 100)))
    brush.rectangle(sofa, floor - 60, sofa + 180, floor - 4, cloth)
    brush.rectangle(sofa + 16, floor - 34, sofa + 164, floor + 8, cloth)
    rug = between(rng, 60, 200)
    brush.oval(rug, H - 70, rug + 240, H - 14, choose(rng, ((206, 170, 170), (170, 180, 206), (216, 206, 176))))


def _desert(brush: Brush, rng: Random) -> None:
    _sky(brush, rng, choose(rng, ((250, 214, 160), (250, 228, 190), (214, 222, 230))))
    for _ in range(3):
        x, radius = between(rng, 0, W), between(rng, 120, 220)
        brush.oval(x - radius, HORIZON - between(rng, 20, 56), x + radius, HORIZON + 120, (226, 168, 96))
    _ground(brush, rng, (232, 178, 106), HORIZON + 20)
    for _ in range(6):
        x, y = between(rng, 0, W - 60), between(rng, HORIZON + 40, H - 8)
        brush.line([(x, y), (x + 24, y - 4), (x + 56, y)], 2, (200, 144, 78))
    for _ in range(between(rng, 1, 3)):
        x, ground, size = between(rng, 10, W - 10), HORIZON + between(rng, 24, 50), between(rng, 50, 84)
        cactus: Colour = (84, 140, 84)
        brush.limb([(x, ground), (x, ground - size)], 14, cactus)
        brush.limb([(x, ground - size // 3), (x - 20, ground - size // 3), (x - 20, ground - size * 2 // 3)], 9, cactus)
        brush.limb([(x, ground - size // 2), (x + 20, ground - size // 2), (x + 20, ground - size * 5 // 6)], 9, cactus)


PAINTERS: dict[str, Callable[[Brush, Random], None]] = {
    "beach": _beach,
    "street": _street,
    "park": _park,
    "forest": _forest,
    "snow": _snow,
    "kitchen": _kitchen,
    "stage": _stage,
    "field": _field,
    "river": _river,
    "mountains": _mountains,
    "room": _room,
    "desert": _desert,
}
