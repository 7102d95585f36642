"""The declaration of an option, and the conversion of its value from text and to JSON."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lib_ti.text import is_encodable, unquoted

MAX_TEXT = 10_000  # characters; a prompt of that length has dozens of chunks

RawValue = str | list[str] | bool
"""An option's value as the user gives it: text, several texts, or a switch."""


@dataclass(frozen=True)
class Option:
    """What a setting means and which values it takes.

    Attributes:
        help: what it is, as the command line and the form show it.
        section: the heading that it stands under.
        unit: what a number counts.
        low: the smallest number, inclusive.
        high: the largest number, inclusive.
        choices: all values of a text.
        metavar: what stands for the value in the command line's help.
        families: names in `model.checkpoint.families` that it applies to; empty: all.
    """

    help: str
    section: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    families: tuple[str, ...] = ()

    def applies_to(self, family: str | None) -> bool:
        """Whether it has an effect on a checkpoint of that family; None: of an unknown one."""
        return not self.families or family in self.families


def parse_value(annotation: Any, option: Option, raw: RawValue) -> Any:
    """Convert the raw value of a field with this type annotation. Raises ValueError with a sentence for the user."""
    if annotation is bool:
        return raw if isinstance(raw, bool) else _parse_bool(str(raw))
    if isinstance(raw, bool):
        raise ValueError("needs a value")
    if annotation == tuple[str, ...] or annotation == tuple[int, ...]:
        texts = [raw] if isinstance(raw, str) else raw
        return tuple(_parse_scalar(text, get_args(annotation)[0], option) for text in texts)
    if not isinstance(raw, str):
        raise ValueError("takes one value")
    if type(None) in get_args(annotation):
        if Path in get_args(annotation) and not raw.strip():
            raise ValueError("needs a value")
        if raw.strip().casefold() in ("auto", ""):
            return None
        annotation = get_args(annotation)[0]
    return _parse_scalar(raw, annotation, option)


def _parse_scalar(text: str, kind: type, option: Option) -> Any:
    if kind is Path:
        return _parse_path(text)
    if kind is str:
        if option.choices and text not in option.choices:
            raise ValueError(f"{text!r} is none of {', '.join(option.choices)}")
        if not is_encodable(text):
            raise ValueError("is not readable text")
        if len(text) > MAX_TEXT:
            raise ValueError(f"is {len(text)} characters long; {MAX_TEXT} is the most")
        return text
    try:
        number = kind(text)
    except (ValueError, OverflowError):
        if re.fullmatch(r"\s*[+-]?\d*,\d+\s*", text):
            raise ValueError(f"{text.strip()} has a comma; write {text.strip().replace(',', '.')}") from None
        raise ValueError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
    low, high = option.low, option.high
    too_low, too_high = low is not None and number < low, high is not None and number > high
    if too_low or too_high or (kind is float and not math.isfinite(number)):
        bounded = low is not None and high is not None and high < 1e9
        bounds = f"from {low:.15g} to {high:.15g}" if bounded else f"{low:.15g} or more"
        unit = f" {option.unit}" if option.unit else ""
        raise ValueError(f"{text.strip()} is out of range; it goes {bounds}{unit}")
    return number


def _parse_path(text: str) -> Path:
    text = unquoted(text)
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


def _parse_bool(text: str) -> bool:
    if text.casefold() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.casefold() == "true"


def to_json_value(value: Any) -> Any:
    """The JSON value of a setting."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def from_json_value(value: Any) -> RawValue:
    """The raw value of a setting that was stored as JSON; `parse_value` reads it."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)
