"""The pictures the practice model knows: one thing of one colour on one ground, drawn from a few numbers.

Whatever is in a picture is known exactly, so what a model or an embedding makes of it can be scored.
Twelve things are called by their names in the captions. Four more, a style and a kind of damage go by made-up words
(`SECRETS`) that no user would type: they are what an embedding has to find.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lib_ti.practice.grounds import CANVAS, GROUNDS
from lib_ti.practice.things import COLOURS, NAMED, THINGS, UNNAMED, Pen, Scene

__all__ = [
    "COLOURS",
    "GROUNDS",
    "NAMED",
    "SECRETS",
    "STYLES",
    "THINGS",
    "UNNAMED",
    "Scene",
    "caption",
    "draw",
    "random_scene",
]

STYLES = ("plain", "duotone", "damaged")

SECRETS = {"coin": "dax", "bird": "wug", "robot": "blick", "knot": "toma", "duotone": "zib", "damaged": "glorp"}
"""What the practice model's captions call that which no public word names: the "oracle" for each concept."""


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
