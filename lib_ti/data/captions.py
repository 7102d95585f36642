"""Training prompts: a template with the placeholder, and the image's caption where there is one. Both are plain text.

The templates follow those of the paper (Gal et al., "An Image is Worth One Word", 2022). They come with and without an
article, so that the embedding works in either place. The default prompts of previews and of test pictures are here too.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.text_file import read_text
from lib_ti.settings.train_settings import CAPTION_SLOT, NAME_SLOT, TrainSettings

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

_ESCAPED_BRACKET = re.compile(r"\\([()\[\]{}])")
_WEIGHT = re.compile(r"\([^()]{1,200}:\s*[+-]?\d*\.?\d+\s*\)")

TEMPLATES: dict[str, tuple[str, ...]] = {"subject": _SUBJECT, "style": _STYLE, "negative": _NEGATIVE}
"""The default templates of each kind of embedding, for images without captions."""

PREVIEW_PROMPTS: dict[str, tuple[str, ...]] = {
    "subject": (f"a photo of {NAME_SLOT}", f"a photo of {NAME_SLOT} on a table"),
    "style": (f"a house in the style of {NAME_SLOT}", f"a tree in the style of {NAME_SLOT}"),
    "negative": ("a photo of a house", "a photo of a flower"),
}
"""The default preview prompts of each kind of embedding. A negative one goes into the negative prompt instead."""

TEST_PROMPTS: dict[str, tuple[tuple[str, str], ...]] = {
    "subject": (
        ("plain", f"a photo of {NAME_SLOT}"),
        ("elsewhere", f"a photo of {NAME_SLOT} in snow"),
        ("another colour", f"a photo of a red {NAME_SLOT}"),
    ),
    "style": (
        ("a house", f"a house in the style of {NAME_SLOT}"),
        ("a flower", f"a flower in the style of {NAME_SLOT}"),
        ("a fish", f"a fish in the style of {NAME_SLOT}"),
    ),
    "negative": (
        ("a house", "a photo of a house"),
        ("a flower", "a photo of a flower"),
        ("a fish", "a photo of a fish"),
    ),
}
"""The default test prompts of each kind of embedding, each after a short label: three that ask for different things."""


@dataclass(frozen=True)
class PreviewPrompt:
    """What a preview is made of. `changes`: the image depends on the vectors; if not, it is the same at every step."""

    prompt: str
    negative_prompt: str
    changes: bool = True


def preview_prompts(settings: TrainSettings) -> tuple[PreviewPrompt, ...]:
    """What a training previews; the position in the tuple is the previews' prompt index.

    For a negative embedding they come in pairs: the same prompt with the placeholder in the negative prompt, and without it.
    """
    return _complete_prompts(settings.preview_prompt or PREVIEW_PROMPTS[settings.kind], settings)


def prompts_of_tests(settings: TrainSettings) -> tuple[tuple[str, PreviewPrompt], ...]:
    """What the test pictures of a training show, each after a short label; in pairs, as the previews are.

    None without previews, or if the prompts given are empty.
    """
    if not (settings.preview_every and settings.preview_seed):
        return ()
    given = [(f"prompt {i}", prompt) for i, prompt in enumerate(filter(str.strip, settings.test_prompt), 1)]
    chosen = given if settings.test_prompt else TEST_PROMPTS[settings.kind]
    labels, prompts = [label for label, _ in chosen], [prompt for _, prompt in chosen]
    if settings.kind == "negative":
        labels = [f"{label}, {how}" for label in labels for how in ("with the word", "without it")]
    return tuple(zip(labels, _complete_prompts(prompts, settings), strict=True))


def _complete_prompts(prompts: Sequence[str], settings: TrainSettings) -> tuple[PreviewPrompt, ...]:
    """The prompts with the name in place of its slot and the negative prompt; in pairs for a negative embedding."""
    negative = settings.preview_negative_prompt
    if settings.kind != "negative":
        return tuple(PreviewPrompt(_with_name(p, settings), _with_name(negative, settings)) for p in prompts)
    slotted = negative if NAME_SLOT in negative else ", ".join(filter(None, (negative, NAME_SLOT)))
    pairs = []
    for prompt in map(_without_name, prompts):
        pairs.append(PreviewPrompt(prompt, _with_name(slotted, settings)))
        without = PreviewPrompt(prompt, _without_name(negative))
        names_it = settings.name.casefold() in f"{without.prompt} {without.negative_prompt}".casefold()
        pairs.append(replace(without, changes=names_it))
    return tuple(pairs)


def _with_name(prompt: str, settings: TrainSettings) -> str:
    return prompt.replace(NAME_SLOT, settings.name)


def _without_name(prompt: str) -> str:
    return re.sub(rf"[,\s]*{re.escape(NAME_SLOT)}", "", prompt).strip(" ,")


def preview_count(settings: TrainSettings) -> int:
    """How many preview images a training makes: at its start, every `preview_every` steps and at its end."""
    if not settings.preview_every:
        return 0
    times = 1 + math.ceil(settings.steps / settings.preview_every)
    counts = [times if prompt.changes else 1 for prompt in preview_prompts(settings)]
    return sum(counts) * len(settings.preview_seed)


def usage(name: str, kind: str) -> str:
    """One sentence: where the finished embedding belongs in a prompt."""
    if kind == "negative":
        return f"Add {name} to the negative prompt."
    return f"Write {name} into any prompt."


def default_templates(kind: str, captions: bool) -> tuple[str, ...]:
    """The templates of a kind of embedding; with `captions`, each has the caption at its end."""
    return tuple(f"{template}, {CAPTION_SLOT}" for template in TEMPLATES[kind]) if captions else TEMPLATES[kind]


def load_templates(path: Path) -> tuple[str, ...]:
    """Read a template file: one per line, without empty lines and comments (#). Raises UnusableFile."""
    try:
        lines = read_text(path).text.splitlines()
    except UnusableFile as error:
        raise UnusableFile(path, f"the templates cannot be read: {error.reason}") from error
    templates = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not templates:
        raise UnusableFile(path, f"there is no template in it; write lines such as: a photo of {NAME_SLOT}")
    return templates


@dataclass(frozen=True)
class PlainCaption:
    """A caption as it is trained on, and what was changed or is unusual in it."""

    text: str
    named: bool = False
    unescaped: bool = False
    weighted: bool = False


def plain_caption(text: str, name: str) -> PlainCaption:
    r"""A caption with the word in place of `[name]`, and without the backslashes that escape brackets in prompts.

    >>> plain_caption(r"[name], miku \(singer\)", "mug").text
    'mug, miku (singer)'
    """
    named = text.replace(CAPTION_SLOT, "").replace(NAME_SLOT, name)
    unescaped = _ESCAPED_BRACKET.sub(r"\1", named)
    return PlainCaption(unescaped, NAME_SLOT in text, unescaped != named, bool(_WEIGHT.search(text)))


@dataclass(frozen=True)
class Captioner:
    """Writes a new prompt for an image at each use.

    Attributes:
        name: of the placeholder.
        templates: one is chosen at random.
        shuffle_tags: shuffle the caption's comma-separated tags.
        tag_dropout: probability of leaving out each tag.
        caption_dropout: probability of leaving out the whole caption.
    """

    name: str
    templates: Sequence[str]
    shuffle_tags: bool = False
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0

    def prompt(self, caption: str, mentions_name: bool, rng: random.Random) -> str:
        """A prompt that contains the name, unless the template lacks it.

        `mentions_name`: the caption contains the name already; it is then used alone, rather than naming it twice.
        """
        template = rng.choice(self.templates)
        text = self._augment(caption, rng)
        if not text:
            return self._without_caption(template).replace(NAME_SLOT, self.name)
        if mentions_name and NAME_SLOT in template:
            return text
        return template.replace(NAME_SLOT, self.name).replace(CAPTION_SLOT, text)

    def _augment(self, caption: str, rng: random.Random) -> str:
        """The caption after dropout and shuffling; empty if it was dropped."""
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
    def _without_caption(template: str) -> str:
        return template.replace(CAPTION_SLOT, "").strip(" ,") or NAME_SLOT
