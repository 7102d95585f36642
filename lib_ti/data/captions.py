"""The prompts a word is trained in: a template, and perhaps the picture's caption. Both are plain text.

The sets follow the paper's (Gal et al., "An Image is Worth One Word", 2022) in kind, with and without an article, so
that the word learns to stand in either place. And the prompts that previews show it in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.settings.train_settings import NAME_SLOT, WORDS_SLOT, TrainSettings

_SUBJECT = (
    "a photo of [name]", "a photo of a [name]", "a photo of the [name]", "a photo of my [name]", "a photo of one [name]",
    "a close-up photo of [name]", "a close-up photo of a [name]", "a cropped photo of the [name]",
    "a good photo of [name]", "a good photo of a [name]", "a bright photo of the [name]", "a dark photo of [name]",
    "a clean photo of [name]", "a nice photo of a [name]", "a picture of [name]", "a picture of a [name]",
    "a rendering of [name]", "a rendering of a [name]", "a depiction of [name]", "[name]", "a [name]", "the [name]",
)  # fmt: skip
_STYLE = (
    "a picture in the style of [name]", "a painting in the style of [name]", "a rendering in the style of [name]",
    "a drawing in the style of [name]", "a photo in the style of [name]", "a close-up in the style of [name]",
    "a cropped painting in the style of [name]", "a bright painting in the style of [name]",
    "a dark painting in the style of [name]", "a good painting in the style of [name]",
    "a small painting in the style of [name]", "a large painting in the style of [name]",
)  # fmt: skip
_NEGATIVE = ("[name]", "a photo, [name]", "a picture, [name]", "[name], a photo", "a [name] picture", "a [name] photo")

BUILT_IN: dict[str, tuple[str, ...]] = {"subject": _SUBJECT, "style": _STYLE, "negative": _NEGATIVE}
"""The templates of each kind of word, for pictures without captions."""

PREVIEWED: dict[str, tuple[str, ...]] = {
    "subject": (f"a photo of {NAME_SLOT}", f"a photo of {NAME_SLOT} on a table"),
    "style": (f"a house in the style of {NAME_SLOT}", f"a tree in the style of {NAME_SLOT}"),
    "negative": (f"a photo of {NAME_SLOT}",),
}
"""The prompts of previews of each kind of word, where none are given."""


def preview_prompts(settings: TrainSettings) -> tuple[str, ...]:
    """The prompts of a training's previews, with `NAME_SLOT` for its word."""
    return settings.preview_prompt or PREVIEWED[settings.kind]


def previews_made(settings: TrainSettings) -> int:
    """How many previews a training makes: at its start, each so many steps, and at its end."""
    if not settings.preview_every:
        return 0
    times = 1 + math.ceil(settings.steps / settings.preview_every)
    return times * len(preview_prompts(settings)) * len(settings.preview_seed)


def built_in(kind: str, captions: bool) -> tuple[str, ...]:
    """The templates of a kind of word; with captions, each says the caption after the word."""
    return tuple(f"{template}, {WORDS_SLOT}" for template in BUILT_IN[kind]) if captions else BUILT_IN[kind]


def load_templates(path: Path) -> tuple[str, ...]:
    """The templates in a file, one a line; empty lines and lines that start with # do not count. Raises UnusableFile."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableFile(path, f"the templates cannot be read ({error})") from error
    templates = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not templates:
        raise UnusableFile(path, f"there is no template in it; write lines such as: a photo of {NAME_SLOT}")
    return templates


@dataclass(frozen=True)
class Captioner:
    """Writes a prompt for a picture, anew at each use."""

    name: str
    templates: Sequence[str]
    shuffle_tags: bool = False
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0

    def write(self, caption: str, mentions_name: bool, rng: random.Random) -> str:
        """A prompt with the name in it, unless the template lacks it. `mentions_name`: the caption does already."""
        template = rng.choice(self.templates)
        words = self._words(caption, rng)
        if not words:
            return self._without_words(template).replace(NAME_SLOT, self.name)
        if mentions_name and NAME_SLOT in template:  # the caption's author has placed the word; this would say it twice
            return words
        return template.replace(NAME_SLOT, self.name).replace(WORDS_SLOT, words)

    def _words(self, caption: str, rng: random.Random) -> str:
        if not caption or rng.random() < self.caption_dropout:
            return ""
        if not (self.shuffle_tags or self.tag_dropout):
            return caption
        tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
        tags = [tag for tag in tags if rng.random() >= self.tag_dropout]
        if self.shuffle_tags:
            rng.shuffle(tags)
        return ", ".join(tags)

    @staticmethod
    def _without_words(template: str) -> str:
        return template.replace(WORDS_SLOT, "").strip(" ,") or NAME_SLOT
