"""A second world, to check that what helps on the practice model is no peculiarity of it.

Other things, colours and grounds, images with one or two things, another style and another kind of damage. Its model does not
come with the project: `python -m benchmarks.second_world.make WORK_FOLDER` trains it.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from lib_ti.practice.grounds import CANVAS
from lib_ti.practice.things import INK, Colour, Pen, Point, shade
from lib_ti.practice.world import World

COLOURS: dict[str, Colour] = {
    "crimson": (170, 20, 60), "brown": (130, 85, 50), "gold": (225, 180, 60), "lime": (160, 220, 60),
    "teal": (20, 140, 140), "navy": (30, 45, 110), "violet": (170, 110, 225), "gray": (150, 150, 155),
}  # fmt: skip


def _arc(radius: float, start: float, end: float, y: float = 0.0, count: int = 24) -> list[Point]:
    """Points on a circle around (0, y), between two angles in turns."""
    angles = [2 * math.pi * (start + (end - start) * i / count) for i in range(count + 1)]
    return [(radius * math.cos(t), y + radius * math.sin(t)) for t in angles]


# --- things with a name ---


def _lamp(pen: Pen) -> None:
    pen.polygon([(-0.5, -0.9), (0.5, -0.9), (0.85, 0.0), (-0.85, 0.0)], pen.main)
    pen.line([(0, 0), (0, 0.75)], INK, 0.14)
    pen.polygon([(-0.5, 0.95), (-0.35, 0.75), (0.35, 0.75), (0.5, 0.95)], pen.dark)


def _bottle(pen: Pen) -> None:
    body = [(-0.18, -0.95), (0.18, -0.95), (0.18, -0.45), (0.45, -0.15), (0.45, 0.95), (-0.45, 0.95), (-0.45, -0.15)]
    pen.polygon([*body, (-0.18, -0.45)], pen.main)
    pen.polygon([(-0.45, 0.1), (0.45, 0.1), (0.45, 0.6), (-0.45, 0.6)], (250, 245, 230))


def _key(pen: Pen) -> None:
    pen.ring(-0.5, 0.0, 0.36, 0.2, pen.main)
    pen.polygon([(-0.12, -0.13), (0.95, -0.13), (0.95, 0.13), (-0.12, 0.13)], pen.main)
    for x in (0.45, 0.78):
        pen.polygon([(x, 0.1), (x + 0.17, 0.1), (x + 0.17, 0.5), (x, 0.5)], pen.main)


def _leaf(pen: Pen) -> None:
    left = [(-0.55 * math.sin(math.pi * i / 20), -0.95 + 1.6 * i / 20) for i in range(21)]
    pen.polygon([*left, *((-x, y) for x, y in reversed(left))], pen.main)
    pen.line([(0, -0.8), (0, 0.98)], pen.dark, 0.1)


def _chair(pen: Pen) -> None:
    for x in (-0.55, 0.55):
        pen.line([(x, 0.2), (x, 0.98)], INK, 0.16)
    pen.polygon([(-0.65, -0.98), (-0.35, -0.98), (-0.35, 0.25), (-0.65, 0.25)], pen.dark)
    pen.polygon([(-0.65, 0.05), (0.7, 0.05), (0.7, 0.32), (-0.65, 0.32)], pen.main)


def _bell(pen: Pen) -> None:
    pen.polygon([(-0.8, 0.6), *_arc(0.5, 0.5, 1.0, -0.35), (0.8, 0.6)], pen.main)
    pen.line([(-0.9, 0.6), (0.9, 0.6)], pen.dark, 0.16)
    pen.ellipse(0, 0.82, 0.17, 0.15, (90, 70, 30))


def _kite(pen: Pen) -> None:
    pen.line([(0, 0.4), (0.3, 0.7), (-0.1, 0.98)], INK, 0.08)
    pen.polygon([(0, -0.98), (0.62, -0.3), (0, 0.5), (-0.62, -0.3)], pen.main)
    pen.polygon([(0, -0.98), (0.62, -0.3), (0, -0.3)], pen.dark)


def _umbrella(pen: Pen) -> None:
    pen.line([(0, -0.2), (0, 0.8), (0.2, 0.95), (0.35, 0.8)], INK, 0.1)
    pen.polygon(_arc(0.95, 0.5, 1.0, 0.05), pen.main)
    for x in (-0.32, 0.32):
        pen.line([(0, -0.88), (x, 0.03)], pen.dark, 0.07)


def _clock(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.92, 0.92, pen.main)
    pen.ellipse(0, 0, 0.68, 0.68, (250, 250, 245))
    pen.line([(0, -0.5), (0, 0), (0.38, 0.15)], INK, 0.1)


def _drum(pen: Pen) -> None:
    pen.polygon([(-0.85, -0.45), (0.85, -0.45), (0.85, 0.75), (-0.85, 0.75)], pen.main)
    zigzag = [(-0.85 + 0.34 * i, 0.65 if i % 2 else -0.35) for i in range(6)]
    pen.line(zigzag, (250, 245, 230), 0.1)
    pen.ellipse(0, -0.45, 0.85, 0.28, (245, 235, 210))


def _hat(pen: Pen) -> None:
    pen.polygon([(-0.5, 0.5), (-0.42, -0.75), (0.42, -0.75), (0.5, 0.5)], pen.main)
    pen.polygon([(-0.48, 0.2), (0.48, 0.2), (0.5, 0.5), (-0.5, 0.5)], pen.dark)
    pen.ellipse(0, 0.55, 0.98, 0.22, pen.main)


def _ladder(pen: Pen) -> None:
    for y in (-0.7, -0.25, 0.2, 0.65):
        pen.line([(-0.4, y), (0.4, y)], pen.dark, 0.16)
    for x in (-0.5, 0.5):
        pen.line([(x, -0.98), (x, 0.98)], INK, 0.24)
        pen.line([(x, -0.94), (x, 0.94)], pen.main, 0.14)


# --- things without a name ---


def _medal(pen: Pen) -> None:
    """A scalloped disc with a bar and two dots, on ribbons."""
    for x in (-0.4, 0.4):
        pen.polygon([(0.2 * x, 0), (x - 0.18, -0.98), (x + 0.2, -0.98)], pen.dark)
    for i in range(10):
        angle = 2 * math.pi * i / 10
        pen.ellipse(0.6 * math.cos(angle), 0.3 + 0.6 * math.sin(angle), 0.16, 0.16, pen.main)
    pen.ellipse(0, 0.3, 0.58, 0.58, pen.main)
    pen.line([(-0.32, 0.3), (0.32, 0.3)], INK, 0.14)
    for y in (0.03, 0.57):
        pen.ellipse(0, y, 0.1, 0.1, (255, 255, 255))


def _snail(pen: Pen) -> None:
    """A spiral on a long body with one horn."""
    pen.polygon([(-0.95, 0.9), (-0.9, 0.55), (0.6, 0.6), (0.75, 0.1), (0.98, 0.15), (0.9, 0.9)], pen.dark)
    pen.line([(0.85, 0.15), (0.8, -0.3)], INK, 0.1)
    pen.ellipse(-0.15, 0.05, 0.68, 0.68, pen.main)
    spiral = [(r * math.cos(8 * r) - 0.15, 0.05 + r * math.sin(8 * r)) for r in (0.55 * i / 50 for i in range(51))]
    pen.line(spiral, INK, 0.11)


def _tower(pen: Pen) -> None:
    """Three storeys that grow narrower, each with a round window, and a flag."""
    for i, (half, top, bottom) in enumerate(((0.75, 0.35, 0.95), (0.55, -0.2, 0.35), (0.35, -0.65, -0.2))):
        fill = pen.main if i % 2 == 0 else shade(pen.main, 1.25)
        pen.polygon([(-half, top), (half, top), (half, bottom), (-half, bottom)], fill)
        pen.ellipse(0, (top + bottom) / 2, 0.13, 0.13, (190, 230, 250))
    pen.line([(0, -0.65), (0, -0.98)], INK, 0.08)
    pen.polygon([(0.02, -0.98), (0.5, -0.85), (0.02, -0.72)], pen.dark)


def _mask(pen: Pen) -> None:
    """A shield with slanted eyes, a triangle for a mouth and two horns."""
    for side in (-1, 1):
        pen.polygon([(0.35 * side, -0.5), (0.75 * side, -0.98), (0.7 * side, -0.35)], pen.dark)
    pen.polygon([(-0.75, -0.5), (0.75, -0.5), (0.7, 0.35), (0, 0.98), (-0.7, 0.35)], pen.main)
    for side in (-1, 1):
        pen.polygon([(0.12 * side, 0.0), (0.55 * side, -0.25), (0.5 * side, 0.05)], (255, 255, 255))
    pen.polygon([(-0.25, 0.35), (0.25, 0.35), (0, 0.65)], INK)


# --- grounds ---


def _tiles(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (200, 215, 205))
    shift = rng.uniform(0, 50)
    for i in range(-1, 7):
        d.line((i * 50 + shift, 0, i * 50 + shift, CANVAS), (150, 165, 155), 5)
        d.line((0, i * 50 + shift, CANVAS, i * 50 + shift), (150, 165, 155), 5)


def _stripes(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (245, 225, 225))
    shift = rng.uniform(0, 60)
    for i in range(-6, 7):
        d.line((i * 60 + shift, CANVAS, i * 60 + shift + CANVAS, 0), (235, 160, 165), 20)


def _lava(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (60, 25, 20))
    for _ in range(9):
        x, y = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS)
        points = [(x + 28 * i, y + rng.uniform(-22, 22)) for i in range(4)]
        d.line(points, (250, 110, 30), 9)


def _meadow(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (150, 190, 110))
    for _ in range(26):
        x, y = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS)
        d.ellipse((x - 8, y - 8, x + 8, y + 8), rng.choice([(250, 240, 250), (250, 210, 90), (230, 150, 200)]))


def _paper(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (250, 248, 240))
    shift = rng.uniform(0, 28)
    for i in range(10):
        d.line((0, i * 28 + shift, CANVAS, i * 28 + shift), (150, 180, 215), 3)
    d.line((40, 0, 40, CANVAS), (230, 120, 120), 4)


def _gravel(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (120, 115, 110))
    for _ in range(110):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(6, 13)
        tone = rng.randrange(90, 190)
        d.ellipse((x - r, y - r, x + r, y + 0.7 * r), (tone, tone - 5, tone - 12))


def _dusk(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for y in range(CANVAS):
        f = y / CANVAS
        d.line((0, y, CANVAS, y), (int(70 + 180 * f), int(50 + 80 * f), int(120 - 30 * f)))
    x = rng.uniform(30, CANVAS - 30)
    d.ellipse((x - 26, 20, x + 26, 72), (255, 235, 190))


def _ice(d: ImageDraw.ImageDraw, rng: random.Random) -> None:
    d.rectangle((0, 0, CANVAS, CANVAS), (205, 235, 245))
    for _ in range(14):
        x, y, angle = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(0, math.pi)
        dx, dy = 50 * math.cos(angle), 50 * math.sin(angle)
        d.line((x - dx, y - dy, x, y, x + dy, y + dx), (140, 190, 215), 4)


# --- styles ---


def _mosaic(image: Image.Image, _rng: random.Random) -> Image.Image:
    """Few colours in large square stones, brightened."""
    small = ImageOps.posterize(image.resize((CANVAS // 16, CANVAS // 16), Image.Resampling.BOX), 3)
    stones = ImageEnhance.Color(small).enhance(1.8).resize(image.size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(stones)
    for i in range(0, CANVAS, 32):
        draw.line((i, 0, i, CANVAS), (40, 40, 40), 3)
        draw.line((0, i, CANVAS, i), (40, 40, 40), 3)
    return stones


def _scratched(image: Image.Image, rng: random.Random) -> Image.Image:
    """Washed out, smeared and scratched."""
    image = ImageEnhance.Contrast(image.filter(ImageFilter.BoxBlur(9))).enhance(0.45)
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS)
        line = (x, y, x + rng.uniform(-90, 90), y + rng.uniform(20, 110))
        draw.line(line, rng.choice([(255, 255, 255), (10, 10, 10)]), 7)
    return image


SECOND_WORLD = World(
    colours=COLOURS,
    named={
        "lamp": _lamp, "bottle": _bottle, "key": _key, "leaf": _leaf, "chair": _chair, "bell": _bell, "kite": _kite,
        "umbrella": _umbrella, "clock": _clock, "drum": _drum, "hat": _hat, "ladder": _ladder,
    },
    unnamed={"medal": _medal, "snail": _snail, "tower": _tower, "mask": _mask},
    grounds={
        "on tiles": _tiles, "on stripes": _stripes, "on lava": _lava, "in a meadow": _meadow, "on paper": _paper,
        "on gravel": _gravel, "at dusk": _dusk, "on ice": _ice,
    },
    styles={"mosaic": _mosaic, "scratched": _scratched},
    damage="scratched",
    style_weights=(0.86, 0.08, 0.06),
    secret_words={
        "medal": "vex", "snail": "plim", "tower": "korv", "mask": "zuba", "mosaic": "fendle", "scratched": "gwib"
    },
    counts=(1, 1, 2),
)  # fmt: skip
