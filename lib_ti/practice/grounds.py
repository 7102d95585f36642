"""The backgrounds of the practice model's images, each with a texture of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import ImageDraw

CANVAS = 256  # pixels; scenes are rendered at this size and downscaled, which antialiases them


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
