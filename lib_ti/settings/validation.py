"""What a setting's value must be beside its type and range, and which do not go together: sentences for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from lib_ti.errors import Problem
from lib_ti.settings import lr_schedule, names

if TYPE_CHECKING:  # it imports this module
    from lib_ti.settings.train_settings import TrainSettings


def check_device(text: str) -> None:
    """Raises ValueError with a sentence unless `text` may be a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError(f"{text!r} is not auto, cpu or a card such as cuda:0; other devices are not supported")


def _check_name(name: str) -> None:
    if problem := names.problem_with(name):
        raise ValueError(problem)


def _check_rate(text: str) -> None:
    if text != "auto":
        lr_schedule.parse(text)


def _check_multiple_of_8(pixels: int) -> None:
    if pixels % 8:
        raise ValueError(f"{pixels} is not a multiple of 8; {pixels // 8 * 8} is the next one below")


CHECKS: dict[str, Callable[[Any], None]] = {
    "name": _check_name,
    "learning_rate": _check_rate,
    "learning_rate_2": _check_rate,
    "device": check_device,
    "resolution": _check_multiple_of_8,
    "preview_width": _check_multiple_of_8,
    "preview_height": _check_multiple_of_8,
}
"""By option. Each raises ValueError with a sentence."""


def clashes(settings: TrainSettings, given: Container[str]) -> list[Problem]:
    """What is wrong between options that are each right; of those that were not `given`, all but the start go with anything."""
    problems = []
    if settings.init_random and settings.init_embedding:
        problems.append(Problem("init_random", "cannot go with --init-embedding; choose one start"))
    if not (settings.init_text.strip() or settings.init_random or settings.init_embedding):
        problems.append(Problem("init_text", "is empty; give a word, or start with --init-random"))
    if settings.lr_schedule not in ("auto", "constant") and lr_schedule.is_list(settings.learning_rate):
        problems.append(Problem("lr_schedule", "applies to a single rate; a list of rates is a schedule of its own"))
    return [p for p in problems if p.option in given or p.option == "init_text"]
