"""The things that the practice model knows, each drawn in its own coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

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
    """All that determines an image.

    Attributes:
        thing: a thing of its world.
        colour: likewise, and so is the ground.
        ground: see `colour`.
        x: of the thing's center, as a fraction of the image's side.
        y: likewise.
        size: half the thing's width, likewise.
        tilt: radians.
        style: plain, or one of its world's styles.
        seed: of the ground's texture.
        count: how many things it shows, side by side.
    """

    thing: str
    colour: str
    ground: str
    x: float = 0.5
    y: float = 0.5
    size: float = 0.32
    tilt: float = 0.0
    style: str = "plain"
    seed: int = 0
    count: int = 1


class Pen:
    """Draws in a thing's own coordinates, -1..1 with y down, which are rotated and scaled onto an RGBA layer."""

    def __init__(self, layer: Image.Image, scene: Scene, colour: Colour) -> None:
        self._draw = ImageDraw.Draw(layer)
        self._side = layer.width
        self._scene = scene
        self.main = colour
        self.dark = shade(colour, 0.68)

    def _to_pixels(self, points: Iterable[Point]) -> list[Point]:
        s, cos, sin = self._scene, math.cos(self._scene.tilt), math.sin(self._scene.tilt)
        scale, side = s.size * self._side, self._side
        return [(s.x * side + scale * (x * cos - y * sin), s.y * side + scale * (x * sin + y * cos)) for x, y in points]

    def polygon(self, points: Iterable[Point], fill: Colour, outline: Colour | None = INK, width: float = 0.07) -> None:
        pixels = self._to_pixels(points)
        self._draw.polygon(pixels, fill=(*fill, 255))
        if outline:
            self._stroke([*pixels, pixels[0], pixels[1]], outline, width)

    def line(self, points: Iterable[Point], colour: Colour = INK, width: float = 0.08) -> None:
        self._stroke(self._to_pixels(points), colour, width)

    def _stroke(self, pixels: list[Point], colour: Colour, width: float) -> None:
        line_width = max(1, round(width * self._scene.size * self._side))
        self._draw.line(pixels, fill=(*colour, 255), width=line_width, joint="curve")

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour,
        outline: Colour | None = INK,
        width: float = 0.07,
    ) -> None:
        self.polygon(_oval(x, y, rx, ry), fill, outline, width)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        self.line([*_oval(x, y, radius, radius), (x + radius, y)], INK, width + 0.12)
        self.line([*_oval(x, y, radius, radius), (x + radius, y)], colour, width)

    def hole(self, points: Iterable[Point]) -> None:
        pixels = self._to_pixels(points)
        self._draw.polygon(pixels, fill=(0, 0, 0, 0))
        self._stroke([*pixels, pixels[0], pixels[1]], INK, 0.07)


def _oval(x: float, y: float, rx: float, ry: float, num_points: int = 48) -> list[Point]:
    angles = [2 * math.pi * i / num_points for i in range(num_points)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in angles]


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (below 1) or lighter."""
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


# --- things with a name -------------------------------------------------------------------------------------------


def _ball(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.9, 0.9, pen.main)
    pen.line([(-0.86, 0.1), (-0.4, 0.3), (0.4, 0.3), (0.86, 0.1)], pen.dark, 0.2)
    pen.ellipse(-0.35, -0.4, 0.2, 0.15, (255, 255, 255), None)


def _box(pen: Pen) -> None:
    pen.polygon([(-0.9, -0.35), (0.4, -0.35), (0.4, 0.9), (-0.9, 0.9)], pen.main)
    pen.polygon([(-0.9, -0.35), (-0.4, -0.85), (0.9, -0.85), (0.4, -0.35)], shade(pen.main, 1.2))
    pen.polygon([(0.4, -0.35), (0.9, -0.85), (0.9, 0.4), (0.4, 0.9)], pen.dark)


def _star(pen: Pen) -> None:
    radii, angles = (1.0, 0.42), [math.pi * i / 5 - math.pi / 2 for i in range(10)]
    pen.polygon([(radii[i % 2] * math.cos(t), radii[i % 2] * math.sin(t)) for i, t in enumerate(angles)], pen.main)


def _heart(pen: Pen) -> None:
    angles = [2 * math.pi * i / 60 for i in range(60)]
    wave = [(16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) for t in angles]
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
        angle = math.pi * i / 3
        pen.ellipse(0.56 * math.cos(angle), 0.56 * math.sin(angle), 0.38, 0.38, pen.main)
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


# --- things without a name ----------------------------------------------------------------------------------------------


def _coin(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.95, 0.95, pen.main)
    for i in range(8):
        angle = math.pi * (i + 0.5) / 4
        pen.ellipse(0.68 * math.cos(angle), 0.68 * math.sin(angle), 0.11, 0.11, INK, None)
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
        angle = 2 * math.pi * i / 3 - math.pi / 2
        pen.ring(0.42 * math.cos(angle), 0.42 * math.sin(angle), 0.45, 0.17, pen.main)
    pen.ellipse(0, 0, 0.2, 0.2, pen.dark)


NAMED: dict[str, Callable[[Pen], None]] = {
    "ball": _ball, "box": _box, "star": _star, "heart": _heart, "house": _house, "tree": _tree, "fish": _fish,
    "mug": _mug, "car": _car, "flower": _flower, "boat": _boat, "mushroom": _mushroom,
}  # fmt: skip
UNNAMED: dict[str, Callable[[Pen], None]] = {"coin": _coin, "bird": _bird, "robot": _robot, "knot": _knot}
