"""Turns text and stored JSON into `TrainSettings`.

Values are checked here, one by one and against each other; whatever needs the files they name is checked in `training.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_ti.errors import BadInput, Problem
from lib_ti.settings.option import RawValue, from_json_value, parse_value
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES, TrainSettings
from lib_ti.settings.validation import VALIDATORS, conflicts

UNSTORED: dict[str, Any] = {
    "validate_every": 0,
    "early_stop": False,
    "keep": "last",
    "adam_beta1": 0.9,
    "ema_decay": 0.0,
    "timestep_sampling": "uniform",
    "init_text": "object",
}
"""What stored settings mean that lack these options: they are of a version that had none of this, and must resume as in it."""


def parse(raw: Mapping[str, RawValue]) -> tuple[TrainSettings, list[Problem]]:
    """Parse settings from raw values, and collect everything that is wrong with them.

    An option with a problem has its default in the result (an empty path or text where there is none), so that the
    others can still be checked against files. Do not train on settings that have problems.
    """
    values: dict[str, Any] = {**{name: TYPES[name]() for name in REQUIRED}, **DEFAULTS}
    problems = [Problem(name, "is missing") for name in REQUIRED if name not in raw]
    for name, raw_value in raw.items():
        try:
            value = parse_value(TYPES[name], OPTIONS[name], raw_value)
            if name in VALIDATORS and value is not None:
                VALIDATORS[name](value)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
        else:
            values[name] = value
    settings = TrainSettings(**values)
    problems += conflicts(settings, raw)
    return settings, problems


def settings_from_json(record: Mapping[str, Any]) -> TrainSettings:
    """The settings of a stored run. Ignores options of other versions. Raises BadInput for invalid values."""
    complete = {**UNSTORED, **record}
    settings, problems = parse({k: from_json_value(v) for k, v in complete.items() if k in TYPES and v is not None})
    if problems:
        raise BadInput(problems)
    return settings
