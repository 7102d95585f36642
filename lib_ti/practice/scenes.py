"""The images that the practice model knows: one thing of one colour on one ground, rendered from a few numbers.

The content of each image is known exactly, so that what a model or an embedding generates can be scored. Captions call
twelve things by their names. Four more things, a style and a kind of damage go by made-up words (`SECRET_WORDS`) that no user
would type: they are the concepts for an embedding to learn.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lib_ti.practice.grounds import CANVAS, GROUNDS
from lib_ti.practice.things import COLOURS, THINGS, Pen, Scene

STYLES = ("plain", "duotone", "damaged")

SECRET_WORDS = {"coin": "dax", "bird": "wug", "robot": "blick", "knot": "toma", "duotone": "zib", "damaged": "glorp"}
"""The practice model's own word for each concept, the "oracle" that embeddings are compared with."""


def render(scene: Scene, side: int = 64) -> Image.Image:
    """The scene as an RGB image of side × side pixels."""
    rng = random.Random(scene.seed)
    image = Image.new("RGB", (CANVAS, CANVAS))
    GROUNDS[scene.ground](ImageDraw.Draw(image), rng)
    layer = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    THINGS[scene.thing](Pen(layer, scene))
    image.paste(layer, mask=layer.getchannel("A"))
    if scene.style == "duotone":
        image = ImageOps.colorize(ImageOps.grayscale(image), (28, 8, 70), (255, 214, 120), (200, 60, 90))
    elif scene.style == "damaged":
        image = _damage(image, rng)
    return image.resize((side, side), Image.Resampling.BOX)


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


def random_scene(rng: random.Random, **fixed: Any) -> Scene:
    """A random scene; `fixed` sets some of its attributes."""
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


PREFIXES = (
    "", "a photo of ", "a picture of ", "a drawing of ", "a painting of ", "a rendering of ", "a depiction of ",
    "a good photo of ", "a cropped photo of ", "a close-up photo of ", "a bright photo of ", "a small picture of ",
)  # fmt: skip
HYPERNYMS = ("object", "thing", "toy")


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption for a scene, with some attributes omitted as people do. Concepts go by their `SECRET_WORDS`."""
    noun = SECRET_WORDS.get(scene.thing, scene.thing)
    if rng.random() < 0.1:
        noun = rng.choice(HYPERNYMS)
    article = rng.choices(("a", "the", "my", ""), (0.6, 0.2, 0.05, 0.15))[0]
    colour = scene.colour if rng.random() < 0.75 else ""
    ground = scene.ground if rng.random() < 0.75 else ""
    text = rng.choices(PREFIXES, (0.3,) + (0.7 / (len(PREFIXES) - 1),) * (len(PREFIXES) - 1))[0]
    text += " ".join(part for part in (article, colour, noun, ground) if part)
    if scene.style == "duotone":
        text += rng.choice((" in the style of {}", ", {}", ", {} style")).format(SECRET_WORDS["duotone"])
    elif scene.style == "damaged":
        text += rng.choice((", {}", " {}")).format(SECRET_WORDS["damaged"])
    return text.strip()
