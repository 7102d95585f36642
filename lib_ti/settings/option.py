"""What an option is, and how its value is read from text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lib_ti.text import is_encodable

Raw = str | list[str] | bool
"""An option as a person gives it: text, several texts, or a switch."""


@dataclass(frozen=True)
class Option:
    """What a setting means and may be. `low` and `high` are inclusive; `unit` is what the number counts.

    `families`: of checkpoints, by their names in `model.families`, that it is for; empty: for all.
    """

    help: str
    section: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    families: tuple[str, ...] = ()

    def is_for(self, family: str | None) -> bool:
        """Whether it means anything for a checkpoint of that family; None: of an unknown one."""
        return not self.families or family in self.families


def read(kind: Any, option: Option, given: Raw) -> Any:
    """The value of an option whose field is annotated with `kind`. Raises ValueError with a sentence."""
    if kind is bool:
        return given if isinstance(given, bool) else _switch(str(given))
    if isinstance(given, bool):
        raise ValueError("needs a value")
    if kind == tuple[str, ...] or kind == tuple[int, ...]:
        texts = [given] if isinstance(given, str) else given
        return tuple(_scalar(text, get_args(kind)[0], option) for text in texts)
    if not isinstance(given, str):
        raise ValueError("takes one value")
    if type(None) in get_args(kind):
        if Path in get_args(kind) and not given.strip():
            raise ValueError("needs a value")
        if given.strip().casefold() in ("auto", ""):
            return None
        kind = get_args(kind)[0]
    return _scalar(given, kind, option)


def _scalar(text: str, kind: type, option: Option) -> Any:
    if kind is Path:
        return _path(text)
    if kind is str:
        if option.choices and text not in option.choices:
            raise ValueError(f"{text!r} is none of {', '.join(option.choices)}")
        if not is_encodable(text):
            raise ValueError("is not readable text")
        return text
    try:
        value = kind(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
    low, high = option.low, option.high
    if (
        (kind is float and not math.isfinite(value))
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        span = (
            f"from {low:g} to {high:g}" if low is not None and high is not None and high < 1e9 else f"{low:g} or more"
        )
        raise ValueError(f"{text.strip()} is out of range; it goes {span}" + (f" {option.unit}" if option.unit else ""))
    return value


def _path(text: str) -> Path:
    if not text.strip():
        raise ValueError("is empty")
    if "\0" in text:
        raise ValueError("contains a null character")
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in Path(text).parts) or len(text) > 4000:
        raise ValueError("is longer than a path can be")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: there is no such home folder") from None


def _switch(text: str) -> bool:
    if text.casefold() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.casefold() == "true"


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def textual(value: Any) -> Raw:
    """A value of JSON as a person would give it."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)
