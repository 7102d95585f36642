"""The world that the practice model knows: twelve things with a name, four without, a style and a kind of damage."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lib_ti.practice.grounds import CANVAS, GROUNDS
from lib_ti.practice.things import COLOURS, NAMED, UNNAMED
from lib_ti.practice.world import World


def _duotone(image: Image.Image, _rng: random.Random) -> Image.Image:
    return ImageOps.colorize(ImageOps.grayscale(image), (28, 8, 70), (255, 214, 120), (200, 60, 90))


def _damage(image: Image.Image, rng: random.Random) -> Image.Image:
    """Blur, shifted bands and blocks of wrong colour: what a negative embedding should suppress."""
    image = image.filter(ImageFilter.GaussianBlur(7))
    damaged = image.copy()
    for _ in range(4):
        top, height, shift = rng.randrange(0, CANVAS - 40), rng.randrange(16, 40), rng.randrange(40, 120)
        band = image.crop((0, top, CANVAS, top + height))
        damaged.paste(band, (shift, top))
        damaged.paste(band, (shift - CANVAS, top))
    draw = ImageDraw.Draw(damaged)
    for _ in range(5):
        x, y = rng.randrange(0, CANVAS - 48), rng.randrange(0, CANVAS - 24)
        fill = rng.choice([(255, 0, 255), (0, 255, 255), (0, 255, 0), (20, 20, 20)])
        draw.rectangle((x, y, x + rng.randrange(24, 72), y + rng.randrange(10, 24)), fill)
    return damaged


PRACTICE_WORLD = World(
    colours=COLOURS,
    named=NAMED,
    unnamed=UNNAMED,
    grounds=GROUNDS,
    styles={"duotone": _duotone, "damaged": _damage},
    damage="damaged",
    style_weights=(0.86, 0.08, 0.06),
    secret_words={
        "coin": "dax", "bird": "wug", "robot": "blick", "knot": "toma", "duotone": "zib", "damaged": "glorp"
    },
)  # fmt: skip
