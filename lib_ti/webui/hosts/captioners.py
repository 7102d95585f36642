"""The host's own models that describe pictures: BLIP in a sentence, DeepBooru in tags. A host downloads each at its first use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

Describe = Callable[[Any], str]
"""A PIL image to its description."""


@contextmanager
def _blip() -> Iterator[Describe]:
    interrogator = import_module("modules.shared").interrogator
    interrogator.load()
    try:
        yield lambda image: str(interrogator.generate_caption(image))
    finally:
        interrogator.unload()


@contextmanager
def _deepbooru() -> Iterator[Describe]:
    model = import_module("modules.deepbooru").model
    model.start()
    try:
        yield lambda image: _unescaped(model.tag_multi(image, force_disable_ranks=True))
    finally:
        model.stop()


def _unescaped(tags: str) -> str:
    """Without the backslashes before brackets: training prompts are plain text."""
    return re.sub(r"\\([()\[\]])", r"\1", tags)


CAPTIONERS: Mapping[str, tuple[str, str, Callable[[], AbstractContextManager[Describe]]]] = {
    "blip": ("In sentences (BLIP)", "modules.interrogate", _blip),
    "deepbooru": ("In tags (DeepBooru)", "modules.deepbooru", _deepbooru),
}
"""By name: the title on the page, the host's module, and a context whose value describes pictures."""


def available() -> dict[str, str]:
    """The titles of those that this host has, by name."""
    return {name: title for name, (title, module, _) in CAPTIONERS.items() if _exists(module)}


def opened(name: str) -> AbstractContextManager[Describe]:
    """One of them, loaded; called with the host's lock held."""
    return CAPTIONERS[name][2]()


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
