"""A world of images: one or more things of one colour on one ground, rendered from a few numbers and described by captions.

The content of each image is known exactly, so that what a model or an embedding generates can be scored. Captions call most
things by their names. The others, the styles and the kind of damage go by made-up words that no user would type: they are the
concepts for an embedding to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from lib_ti.practice.grounds import CANVAS
from lib_ti.practice.things import Colour, Pen, Scene

PLAIN = "plain"
"""The style of an image that has none."""

PREFIXES = (
    "", "a photo of ", "a picture of ", "a drawing of ", "a painting of ", "a rendering of ", "a depiction of ",
    "a good photo of ", "a cropped photo of ", "a close-up photo of ", "a bright photo of ", "a small picture of ",
)  # fmt: skip
HYPERNYMS = ("object", "thing", "toy")


@dataclass(frozen=True)
class World:
    """Everything that scenes are made of.

    Attributes:
        colours: RGB values by the word for them.
        named: the things that captions call by their names.
        unnamed: the things that captions call by their secret words.
        grounds: the backgrounds, by the words for them.
        styles: what a style does to a finished image; plain is none of them.
        damage: the one of `styles` that stands for damage, as negative embeddings learn it.
        style_weights: how often plain and each of `styles` occurs.
        secret_words: the model's own word for each concept, the "oracle" that embeddings are compared with.
        counts: how many things an image may show.
    """

    colours: Mapping[str, Colour]
    named: Mapping[str, Callable[[Pen], None]]
    unnamed: Mapping[str, Callable[[Pen], None]]
    grounds: Mapping[str, Callable[[ImageDraw.ImageDraw, random.Random], None]]
    styles: Mapping[str, Callable[[Image.Image, random.Random], Image.Image]]
    damage: str
    style_weights: tuple[float, ...]
    secret_words: Mapping[str, str]
    counts: tuple[int, ...] = (1,)

    @property
    def things(self) -> dict[str, Callable[[Pen], None]]:
        return {**self.named, **self.unnamed}

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each attribute of a `Scene` that a classifier can tell."""
        classes = {
            "thing": tuple(self.things),
            "colour": tuple(self.colours),
            "ground": tuple(self.grounds),
            "style": (PLAIN, *self.styles),
        }
        return classes if len(self.counts) == 1 else {**classes, "count": tuple(map(str, dict.fromkeys(self.counts)))}

    @property
    def kinds(self) -> dict[str, str]:
        """Each concept, and the kind of embedding it needs."""
        kinds = dict.fromkeys(self.unnamed, "subject") | dict.fromkeys(self.styles, "style")
        return kinds | {self.damage: "negative"}

    def render(self, scene: Scene, side: int = 64) -> Image.Image:
        """The scene as an RGB image of side × side pixels."""
        rng = random.Random(scene.seed)
        image = Image.new("RGB", (CANVAS, CANVAS))
        self.grounds[scene.ground](ImageDraw.Draw(image), rng)
        layer = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
        for single in _arrange(scene):
            self.things[scene.thing](Pen(layer, single, self.colours[scene.colour]))
        image.paste(layer, mask=layer.getchannel("A"))
        if scene.style != PLAIN:
            image = self.styles[scene.style](image, rng)
        return image.resize((side, side), Image.Resampling.BOX)

    def random_scene(self, rng: random.Random, **fixed: Any) -> Scene:
        """A random scene; `fixed` sets some of its attributes."""
        size = rng.uniform(0.3, 0.42)
        scene = Scene(
            thing=rng.choice([*self.things]),
            colour=rng.choice([*self.colours]),
            ground=rng.choice([*self.grounds]),
            x=rng.uniform(size, 1 - size),
            y=rng.uniform(size, 1 - size),
            size=size,
            tilt=rng.gauss(0, 0.12),
            style=rng.choices((PLAIN, *self.styles), self.style_weights)[0],
            seed=rng.randrange(2**31),
        )
        if len(self.counts) > 1:
            scene = replace(scene, count=rng.choice(self.counts))
        return replace(scene, **fixed)

    def caption(self, scene: Scene, rng: random.Random) -> str:
        """A caption for a scene, with some attributes omitted as people do. Concepts go by their `secret_words`."""
        noun = self.secret_words.get(scene.thing, scene.thing)
        if rng.random() < 0.1:
            noun = rng.choice(HYPERNYMS)
        article = rng.choices(("a", "the", "my", ""), (0.6, 0.2, 0.05, 0.15))[0]
        if scene.count == 2:
            article, noun = "two", f"{noun}s"
        colour = scene.colour if rng.random() < 0.75 else ""
        ground = scene.ground if rng.random() < 0.75 else ""
        text = rng.choices(PREFIXES, (0.3,) + (0.7 / (len(PREFIXES) - 1),) * (len(PREFIXES) - 1))[0]
        text += " ".join(part for part in (article, colour, noun, ground) if part)
        if scene.style == self.damage:
            text += rng.choice((", {}", " {}")).format(self.secret_words[scene.style])
        elif scene.style != PLAIN:
            text += rng.choice((" in the style of {}", ", {}", ", {} style")).format(self.secret_words[scene.style])
        return text.strip()


def _arrange(scene: Scene) -> list[Scene]:
    """A scene for each of its things: one where the scene says, two side by side and smaller."""
    if scene.count == 1:
        return [scene]
    size = 0.6 * scene.size
    return [replace(scene, x=x, size=size, count=1) for x in (0.05 + size, 0.95 - size)]
