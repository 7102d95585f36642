"""Checks of settings beyond type and range: of single values, and of options that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from lib_ti.errors import Problem
from lib_ti.settings import lr_schedule, names

if TYPE_CHECKING:  # it imports this module
    from lib_ti.settings.train_settings import TrainSettings


def validate_device(device: str) -> None:
    """Raise ValueError with a sentence for the user unless `device` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"{device!r} is not auto, cpu or a card such as cuda:0; other devices are not supported")


def _validate_name(name: str) -> None:
    if problem := names.name_problem(name):
        raise ValueError(problem)


def _validate_learning_rate(text: str) -> None:
    if text != "auto":
        lr_schedule.parse_learning_rate(text)


def _validate_multiple_of_8(pixels: int) -> None:
    if pixels % 8:
        raise ValueError(f"{pixels} is not a multiple of 8; {pixels // 8 * 8} is the next one below")


VALIDATORS: dict[str, Callable[[Any], None]] = {
    "name": _validate_name,
    "learning_rate": _validate_learning_rate,
    "learning_rate_2": _validate_learning_rate,
    "device": validate_device,
    "resolution": _validate_multiple_of_8,
    "preview_width": _validate_multiple_of_8,
    "preview_height": _validate_multiple_of_8,
}
"""By option; each raises ValueError with a sentence for the user."""


def conflicts(settings: TrainSettings, explicit: Container[str]) -> list[Problem]:
    """Problems between options that are valid each by itself.

    Options that are not `explicit` have their defaults, and conflict with nothing but a missing initialization.
    """
    problems = []
    if settings.init_random and settings.init_embedding:
        problems.append(Problem("init_random", "cannot go with --init-embedding; choose one start"))
    if not (settings.init_text.strip() or settings.init_random or settings.init_embedding):
        problems.append(Problem("init_text", "is empty; give a word, or start with --init-random"))
    if settings.lr_schedule not in ("auto", "constant") and lr_schedule.is_piecewise(settings.learning_rate):
        problems.append(Problem("lr_schedule", "applies to a single rate; a list of rates is a schedule of its own"))
    if settings.contrast_images and settings.kind != "negative":
        problems.append(Problem("contrast_images", "is for what to avoid; choose --kind negative, or leave it out"))
    return [problem for problem in problems if problem.option in explicit or problem.option == "init_text"]
