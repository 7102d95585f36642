"""What a setting's value must be beside its type and range: sentences for what it is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lib_ti import learning_rate, names


def check_device(text: str) -> None:
    """Raises ValueError with a sentence unless `text` may be a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError(f"{text!r} is not auto, cpu or a card such as cuda:0; other devices are not supported")


def _check_name(name: str) -> None:
    if problem := names.problem_with(name):
        raise ValueError(problem)


def _check_rate(text: str) -> None:
    if text != "auto":
        learning_rate.parse(text)


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
