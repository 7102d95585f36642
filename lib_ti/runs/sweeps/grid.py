"""Which trainings a sweep consists of: every combination of the values of some options, each under a name of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from lib_ti.errors import BadInput, Problem
from lib_ti.settings.option import RawValue
from lib_ti.settings.train_settings import OPTIONS

MAX_RUNS = 24
"""The most trainings in one sweep: more are hard to compare, and a night does not suffice for them."""

SWEEPABLE = tuple(
    name
    for name in OPTIONS
    if name
    in ("images", "init_text", "vectors", "steps", "learning_rate", "lr_schedule", "optimizer", "batch_size", "seed")
)
"""The options that may have several values."""

_LABELS = {"learning_rate": "lr", "vectors": "v", "steps": "s", "batch_size": "b", "seed": "seed"}
"""What stands before a value in a name; a text stands for itself."""
_MAX_LABEL = 24  # characters of a value in a name


def split_values(raw: Mapping[str, RawValue]) -> tuple[dict[str, RawValue], dict[str, list[str]]]:
    """The options with one value, as `train_settings.parse` takes them, and those with several, in order and each once."""
    single, several = dict(raw), {}
    for name in SWEEPABLE:
        value = raw.get(name)
        if isinstance(value, list):
            texts = list(dict.fromkeys(value))
            single[name] = texts[0]
            if len(texts) > 1:
                several[name] = texts
    return single, several


def combinations(values: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the values, the last option changing fastest. Raises BadInput if there are too few or too many."""
    if problems := [Problem(name, "cannot have several values") for name in values if name not in SWEEPABLE]:
        raise BadInput(problems)
    several = {name: list(dict.fromkeys(values[name])) for name in SWEEPABLE if len(set(values.get(name, ()))) > 1}
    if not several:
        raise BadInput([Problem("", f"a sweep needs several values for one of {', '.join(SWEEPABLE)}")])
    count = math.prod(map(len, several.values()))
    if count > MAX_RUNS:
        factors = " × ".join(str(len(texts)) for texts in several.values())
        calculation = f" ({factors})" if len(several) > 1 else ""
        reason = (
            f"{count} trainings{calculation} are too many for one sweep; {MAX_RUNS} are the most, so give fewer values"
        )
        raise BadInput([Problem("", reason)])
    return [dict(zip(several, texts, strict=True)) for texts in product(*several.values())]


def run_names(name: str, runs: Sequence[Mapping[str, str]]) -> list[str]:
    """A name for each combination: the word's, and what distinguishes it; numbers where the values make no good names."""
    suffixes = ["-".join(_value_label(option, text) for option, text in values.items()) for values in runs]
    names = [f"{name}-{suffix}" for suffix in suffixes]
    good = (
        all(suffixes)
        and len({n.casefold() for n in names}) == len(names)
        and all(len(n.encode()) <= 100 for n in names)
    )
    return names if good else [f"{name}-{i}" for i in range(1, len(runs) + 1)]


def describe(values: Mapping[str, str]) -> str:
    """The values of one combination in words: `learning rate 0.005, vectors 2`."""
    return ", ".join(f"{option_words(option)} {_short(option, text)}" for option, text in values.items())


def option_words(option: str) -> str:
    """An option's name in words."""
    return {"images": "pictures", "init_text": "init text"}.get(
        option, option.replace("lr_", "rate ").replace("_", " ")
    )


def _value_label(option: str, text: str) -> str:
    slug = re.sub(r"[^0-9A-Za-z.]+", "-", _short(option, text)).strip("-.")
    return _LABELS.get(option, "") + slug if slug and len(slug) <= _MAX_LABEL else ""


def _short(option: str, text: str) -> str:
    return Path(text).name if option == "images" else text
