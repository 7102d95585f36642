"""Checkpoints that another program has saved as a part of something: all their keys carry one more prefix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

MAX_PREFIX = 100  # characters


def extra_prefix(keys: Iterable[str], known: str) -> str:
    """What stands in front of the key `known` in a file that does not have it as it is; "" if nothing does.

    >>> extra_prefix(["state.model.out.weight"], "model.out.weight")
    'state.'
    """
    found = ""
    for key in keys:
        if key == known:
            return ""
        if key.endswith(f".{known}") and len(key) - len(known) <= MAX_PREFIX:
            found = key.removesuffix(known)
    return found


def without_prefix(values: Mapping[str, Value], known: Iterable[str]) -> Mapping[str, Value]:
    """The values under the keys that a program without the prefix would have written; `known`: keys that tell."""
    for key in known:
        if prefix := extra_prefix(values, key):
            stripped = {name.removeprefix(prefix): value for name, value in values.items()}
            return stripped if len(stripped) == len(values) else values
    return values
