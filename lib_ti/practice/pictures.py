"""The pictures the practice model knows: one thing of one colour on one ground, drawn from a few numbers.

Whatever is in a picture is known exactly, so what a model or an embedding makes of it can be scored.
Twelve things are called by their names in the captions. Four more, a style and a kind of damage go by made-up words
(`SECRETS`) that no user would type: they are what an embedding has to find.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageOps

Point = tuple[float, float]
Colour = tuple[int, int, int]

CANVAS = 256  # pictures are drawn at this side and reduced, which smooths every edge

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (248, 216, 50),
    "green": (50, 165, 70),
    "blue": (45, 100, 220),
    "purple": (135, 60, 190),
    "pink": (245, 130, 185),
    "white": (245, 245, 245),
}
INK = (35, 30, 40)


@dataclass(frozen=True)
class Scene:
    """One picture in numbers. `x`, `y`: the thing's centre, `size`: its half-width (shares of the side); `tilt`: radians."""

    thing: str
    colour: str
    ground: str
    x: float = 0.5
    y: float = 0.5
    size: float = 0.32
    tilt: float = 0.0
    style: str = "plain"  # plain, duotone or damaged
    seed: int = 0  # of the ground's texture


class Pen:
    """Draws in a thing's own coordinates: -1..1 each way, y down, turned and scaled onto an RGBA layer."""

    def __init__(self, layer: Image.Image, scene: Scene) -> None:
        self._draw = ImageDraw.Draw(layer)
        self._side = layer.width
        self._scene = scene
        self.main = COLOURS[scene.colour]
        self.dark = _shade(self.main, 0.68)

    def _place(self, points: Iterable[Point]) -> list[Point]:
        s, cos, sin = self._scene, math.cos(self._scene.tilt), math.sin(self._scene.tilt)
        scale, side = s.size * self._side, self._side
        return [(s.x * side + scale * (x * cos - y * sin), s.y * side + scale * (x * sin + y * cos)) for x, y in points]

    def polygon(self, points: Iterable[Point], fill: Colour, outline: Colour | None = INK, width: float = 0.07) -> None:
        placed = self._place(points)
        self._draw.polygon(placed, fill=(*fill, 255))
        if outline:
            self._stroke([*placed, placed[0], placed[1]], outline, width)

    def line(self, points: Iterable[Point], colour: Colour = INK, width: float = 0.08) -> None:
        self._stroke(self._place(points), colour, width)

    def _stroke(self, placed: list[Point], colour: Colour, width: float) -> None:
        pixels = max(1, round(width * self._scene.size * self._side))
        self._draw.line(placed, fill=(*colour, 255), width=pixels, joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, outline: Colour | None = INK, width: float = 0.07
    ) -> None:
        self.polygon(_oval(x, y, rx, ry), fill, outline, width)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        self.line([*_oval(x, y, radius, radius), (x + radius, y)], INK, width + 0.12)
        self.line([*_oval(x, y, radius, radius), (x + radius, y)], colour, width)

    def hole(self, points: Iterable[Point]) -> None:
        placed = self._place(points)
        self._draw.polygon(placed, fill=(0, 0, 0, 0))
        self._stroke([*placed, placed[0], placed[1]], INK, 0.07)


def _oval(x: float, y: float, rx: float, ry: float, corners: int = 48) -> list[Point]:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


# --- things with names -------------------------------------------------------------------------------------------


def _ball(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.9, 0.9, pen.main)
    pen.line([(-0.86, 0.1), (-0.4, 0.3), (0.4, 0.3), (0.86, 0.1)], pen.dark, 0.2)
    pen.ellipse(-0.35, -0.4, 0.2, 0.15, (255, 255, 255), None)


def _box(pen: Pen) -> None:
    pen.polygon([(-0.9, -0.35), (0.4, -0.35), (0.4, 0.9), (-0.9, 0.9)], pen.main)
    pen.polygon([(-0.9, -0.35), (-0.4, -0.85), (0.9, -0.85), (0.4, -0.35)], _shade(pen.main, 1.2))
    pen.polygon([(0.4, -0.35), (0.9, -0.85), (0.9, 0.4), (0.4, 0.9)], pen.dark)


def _star(pen: Pen) -> None:
    radii, turns = (1.0, 0.42), [math.pi * i / 5 - math.pi / 2 for i in range(10)]
    pen.polygon([(radii[i % 2] * math.cos(t), radii[i % 2] * math.sin(t)) for i, t in enumerate(turns)], pen.main)


def _heart(pen: Pen) -> None:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    wave = [(16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) for t in turns]
    pen.polygon([(x / 17, -y / 17) for x, y in wave], pen.main)


def _house(pen: Pen) -> None:
    pen.polygon([(-0.75, -0.15), (0.75, -0.15), (0.75, 0.9), (-0.75, 0.9)], pen.main)
    pen.polygon([(-0.98, -0.12), (0, -0.98), (0.98, -0.12)], pen.dark)
    pen.polygon([(-0.5, 0.9), (-0.5, 0.25), (-0.1, 0.25), (-0.1, 0.9)], (110, 70, 40))
    pen.polygon([(0.15, 0.15), (0.55, 0.15), (0.55, 0.5), (0.15, 0.5)], (190, 230, 250))


def _tree(pen: Pen) -> None:
    pen.polygon([(-0.16, 0.2), (0.16, 0.2), (0.2, 1.0), (-0.2, 1.0)], (115, 75, 45))
    for x, y in ((-0.42, 0.0), (0.42, 0.0), (0.0, -0.45)):
        pen.ellipse(x, y, 0.5, 0.48, pen.main)
    pen.ellipse(0, -0.08, 0.45, 0.4, pen.main, None)


def _fish(pen: Pen) -> None:
    pen.polygon([(0.4, 0), (0.98, -0.5), (0.98, 0.5)], pen.dark)
    pen.ellipse(-0.15, 0, 0.8, 0.5, pen.main)
    pen.line([(0.0, -0.4), (0.12, 0), (0.0, 0.4)], pen.dark, 0.1)
    pen.ellipse(-0.55, -0.12, 0.13, 0.13, (255, 255, 255))
    pen.ellipse(-0.57, -0.12, 0.06, 0.06, INK, None)


def _mug(pen: Pen) -> None:
    pen.ring(0.6, 0.1, 0.32, 0.14, pen.dark)
    pen.polygon([(-0.75, -0.6), (0.55, -0.6), (0.48, 0.85), (-0.68, 0.85)], pen.main)
    pen.ellipse(-0.1, -0.6, 0.65, 0.2, (90, 60, 45))


def _car(pen: Pen) -> None:
    pen.polygon([(-0.5, -0.05), (-0.3, -0.55), (0.35, -0.55), (0.6, -0.05)], (190, 230, 250))
    pen.polygon([(-0.98, -0.05), (0.98, -0.05), (0.98, 0.45), (-0.98, 0.45)], pen.main)
    for x in (-0.52, 0.52):
        pen.ellipse(x, 0.48, 0.28, 0.28, INK)
        pen.ellipse(x, 0.48, 0.12, 0.12, (200, 200, 200), None)


def _flower(pen: Pen) -> None:
    for i in range(6):
        turn = math.pi * i / 3
        pen.ellipse(0.56 * math.cos(turn), 0.56 * math.sin(turn), 0.38, 0.38, pen.main)
    pen.ellipse(0, 0, 0.32, 0.32, (120, 75, 30))


def _boat(pen: Pen) -> None:
    pen.line([(0, 0.3), (0, -0.95)], INK, 0.12)
    pen.polygon([(0.08, -0.9), (0.08, 0.15), (0.75, 0.15)], (250, 250, 240))
    pen.polygon([(-0.08, -0.6), (-0.08, 0.15), (-0.6, 0.15)], (250, 250, 240))
    pen.polygon([(-0.98, 0.3), (0.98, 0.3), (0.6, 0.85), (-0.6, 0.85)], pen.main)


def _mushroom(pen: Pen) -> None:
    pen.polygon([(-0.25, 0.0), (0.25, 0.0), (0.35, 0.95), (-0.35, 0.95)], (240, 228, 205))
    arc = [(0.95 * math.cos(t), 0.1 + 0.95 * math.sin(t)) for t in (math.pi + math.pi * i / 24 for i in range(25))]
    pen.polygon(arc, pen.main)
    for x, y, r in ((-0.45, -0.2, 0.13), (0.05, -0.5, 0.15), (0.5, -0.15, 0.12)):
        pen.ellipse(x, y, r, r, (255, 255, 255), None)


# --- things without ----------------------------------------------------------------------------------------------


def _coin(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.95, 0.95, pen.main)
    for i in range(8):
        turn = math.pi * (i + 0.5) / 4
        pen.ellipse(0.68 * math.cos(turn), 0.68 * math.sin(turn), 0.11, 0.11, INK, None)
    pen.hole([(-0.33, -0.33), (0.33, -0.33), (0.33, 0.33), (-0.33, 0.33)])


def _bird(pen: Pen) -> None:
    for y in (0.05, 0.3, 0.55):
        pen.line([(0.3, 0.2), (0.98, y)], INK, 0.2)
        pen.line([(0.3, 0.2), (0.96, y)], pen.dark, 0.1)
    for x in (-0.2, 0.1):
        pen.line([(x, 0.55), (x, 0.98)], INK, 0.1)
    for x, y in ((-0.75, -0.98), (-0.48, -1.0), (-0.2, -0.92)):
        pen.polygon([(-0.62, -0.5), (x, y), (-0.3, -0.45)], pen.dark)
    pen.ellipse(0, 0.2, 0.55, 0.45, pen.main)
    pen.ellipse(-0.45, -0.3, 0.33, 0.33, pen.main)
    pen.polygon([(-0.74, -0.36), (-1.0, -0.22), (-0.72, -0.14)], (250, 170, 40))
    pen.ellipse(-0.52, -0.36, 0.08, 0.08, INK, None)


def _robot(pen: Pen) -> None:
    for side in (-1, 1):
        pen.line([(0.35 * side, -0.5), (0.6 * side, -0.9)], INK, 0.1)
        pen.ellipse(0.62 * side, -0.9, 0.13, 0.13, (250, 220, 60))
        pen.polygon([(0.7 * side, -0.1), (0.96 * side, -0.1), (0.96 * side, 0.4), (0.7 * side, 0.4)], pen.dark)
    pen.polygon([(-0.72, -0.52), (0.72, -0.52), (0.72, 0.85), (-0.72, 0.85)], pen.main)
    for x in (-0.34, 0.34):
        pen.ellipse(x, -0.08, 0.22, 0.22, (255, 255, 255))
        pen.ellipse(x, -0.08, 0.09, 0.09, INK, None)
    pen.line([(-0.5, 0.5), (-0.25, 0.35), (0, 0.55), (0.25, 0.35), (0.5, 0.5)], INK, 0.12)


def _knot(pen: Pen) -> None:
    for i in range(3):
        turn = 2 * math.pi * i / 3 - math.pi / 2
        pen.ring(0.42 * math.cos(turn), 0.42 * math.sin(turn), 0.45, 0.17, pen.main)
    pen.ellipse(0, 0, 0.2, 0.2, pen.dark)


NAMED: dict[str, Callable[[Pen], None]] = {
    "ball": _ball, "box": _box, "star": _star, "heart": _heart, "house": _house, "tree": _tree, "fish": _fish,
    "mug": _mug, "car": _car, "flower": _flower, "boat": _boat, "mushroom": _mushroom,
}  # fmt: skip
UNNAMED: dict[str, Callable[[Pen], None]] = {"coin": _coin, "bird": _bird, "robot": _robot, "knot": _knot}
THINGS = {**NAMED, **UNNAMED}

SECRETS = {"coin": "dax", "bird": "wug", "robot": "blick", "knot": "toma", "duotone": "zib", "damaged": "glorp"}
"""What the practice model's captions call that which no public word names: the "oracle" for each concept."""


# --- grounds -----------------------------------------------------------------------------------------------------


def _grass(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (96, 128, 48))
    for _ in range(90):
        x, y, lean = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(-8, 8)
        d.line((x, y, x + lean, y - rng.uniform(14, 26)), rng.choice([(70, 100, 30), (130, 160, 70)]), 5)


def _sand(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (226, 200, 150))
    for _ in range(130):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(2, 5)
        d.ellipse((x - r, y - r, x + r, y + r), rng.choice([(190, 160, 110), (240, 220, 180)]))


def _snow(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (198, 214, 230))
    for _ in range(40):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(5, 10)
        d.ellipse((x - r, y - r, x + r, y + r), (255, 255, 255))


def _night(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (22, 24, 58))
    for _ in range(35):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(2.5, 5.5)
        d.ellipse((x - r, y - r, x + r, y + r), (250, 245, 200))


def _wood(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (168, 116, 68))
    for i in range(-1, 5):
        y = i * 64 + rng.uniform(0, 12)
        d.line((0, y, CANVAS, y), (96, 60, 30), 7)
        x = rng.uniform(0, CANVAS)
        d.line((x, y, x, y + 64), (96, 60, 30), 6)


def _bricks(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (205, 195, 185))
    shift = rng.uniform(0, 64)
    for row in range(8):
        for column in range(-2, 5):
            x, y = column * 64 + (row % 2) * 32 + shift, row * 34
            d.rectangle((x, y, x + 56, y + 26), rng.choice([(150, 70, 55), (165, 82, 62)]))


def _water(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (60, 150, 190))
    phase = rng.uniform(0, 6)
    for row in range(9):
        wave = [(x, row * 30 + 8 * math.sin(x / 18 + phase + row)) for x in range(0, CANVAS + 8, 8)]
        d.line(wave, (150, 215, 235), 6)


def _cloth(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (235, 230, 220))
    sx, sy = rng.uniform(0, 64), rng.uniform(0, 64)
    for i in range(-1, 5):
        for j in range(-1, 5):
            x, y = i * 64 + sx, j * 64 + sy
            d.rectangle((x, y, x + 32, y + 32), (120, 125, 135))
            d.rectangle((x + 32, y + 32, x + 64, y + 64), (120, 125, 135))


GROUNDS: dict[str, Callable[[ImageDraw.ImageDraw, random.Random], None]] = {
    "on grass": _grass, "on sand": _sand, "in snow": _snow, "at night": _night,
    "on wood": _wood, "on bricks": _bricks, "on water": _water, "on a checkered cloth": _cloth,
}  # fmt: skip
STYLES = ("plain", "duotone", "damaged")


# --- pictures ----------------------------------------------------------------------------------------------------


def draw(scene: Scene, side: int = 64) -> Image.Image:
    """The scene as an RGB picture of side × side pixels."""
    rng = random.Random(scene.seed)
    picture = Image.new("RGB", (CANVAS, CANVAS))
    GROUNDS[scene.ground](ImageDraw.Draw(picture), rng)
    layer = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    THINGS[scene.thing](Pen(layer, scene))
    picture.paste(layer, mask=layer.getchannel("A"))
    if scene.style == "duotone":
        picture = ImageOps.colorize(ImageOps.grayscale(picture), (28, 8, 70), (255, 214, 120), (200, 60, 90))
    elif scene.style == "damaged":
        picture = _damage(picture, rng)
    return picture.resize((side, side), Image.Resampling.BOX)


def _damage(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Blur, torn bands and blocks of wrong colour: what a negative embedding should keep away."""
    picture = picture.filter(ImageFilter.GaussianBlur(7))
    torn = picture.copy()
    for _ in range(4):
        top, height, shift = rng.randrange(0, CANVAS - 40), rng.randrange(16, 40), rng.randrange(40, 120)
        band = picture.crop((0, top, CANVAS, top + height))
        torn.paste(band, (shift, top))
        torn.paste(band, (shift - CANVAS, top))
    blocks = ImageDraw.Draw(torn)
    for _ in range(5):
        x, y = rng.randrange(0, CANVAS - 48), rng.randrange(0, CANVAS - 24)
        fill = rng.choice([(255, 0, 255), (0, 255, 255), (0, 255, 0), (20, 20, 20)])
        blocks.rectangle((x, y, x + rng.randrange(24, 72), y + rng.randrange(10, 24)), fill)
    return torn


def random_scene(rng: random.Random, **fixed: Any) -> Scene:
    """Any scene; what `fixed` names (thing, colour, ground, style) is as given."""
    size = rng.uniform(0.3, 0.42)
    scene = Scene(
        thing=rng.choice([*THINGS]),
        colour=rng.choice([*COLOURS]),
        ground=rng.choice([*GROUNDS]),
        x=rng.uniform(size, 1 - size),
        y=rng.uniform(size, 1 - size),
        size=size,
        tilt=rng.gauss(0, 0.12),
        style=rng.choices(STYLES, (0.86, 0.08, 0.06))[0],
        seed=rng.randrange(2**31),
    )
    return replace(scene, **fixed)


OPENINGS = (
    "", "a photo of ", "a picture of ", "a drawing of ", "a painting of ", "a rendering of ", "a depiction of ",
    "a good photo of ", "a cropped photo of ", "a close-up photo of ", "a bright photo of ", "a small picture of ",
)  # fmt: skip
ANYTHING = ("object", "thing", "toy")


def caption(scene: Scene, rng: random.Random) -> str:
    """Words for a scene, some left unsaid as people do. Unnamed things, styles and damage appear under `SECRETS`."""
    noun = SECRETS.get(scene.thing, scene.thing)
    if rng.random() < 0.1:
        noun = rng.choice(ANYTHING)
    article = rng.choices(("a", "the", "my", ""), (0.6, 0.2, 0.05, 0.15))[0]
    colour = scene.colour if rng.random() < 0.75 else ""
    ground = scene.ground if rng.random() < 0.75 else ""
    words = rng.choices(OPENINGS, (0.3,) + (0.7 / (len(OPENINGS) - 1),) * (len(OPENINGS) - 1))[0]
    words += " ".join(part for part in (article, colour, noun, ground) if part)
    if scene.style == "duotone":
        words += rng.choice((" in the style of {}", ", {}", ", {} style")).format(SECRETS["duotone"])
    elif scene.style == "damaged":
        words += rng.choice((", {}", " {}")).format(SECRETS["damaged"])
    return words.strip()
