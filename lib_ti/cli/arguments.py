"""Command lines read so that everything wrong with them is known at once."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn, get_args

from lib_ti.errors import BadInput, Problem
from lib_ti.model.checkpoint.families import titles
from lib_ti.settings.option import Option, RawValue
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES
from lib_ti.text import option_flag


class Parser(argparse.ArgumentParser):
    """argparse that raises BadInput, and hands back options it does not know together with the rest."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"python -m lib_ti {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise BadInput([Problem("", message)])

    def read(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Problem]]:
        """The options, and a problem for each argument that is none of them."""
        values, left = self.parse_known_args(arguments)
        return values, self._unknown(left)

    def read_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options. Raises BadInput for whatever is none."""
        values, problems = self.read(arguments)
        if problems:
            raise BadInput(problems)
        return values

    def _unknown(self, left: Sequence[str]) -> list[Problem]:
        known = [name for action in self._actions for name in action.option_strings]
        problems, after_unknown = [], False
        for argument in left:
            if argument.startswith("-"):
                problems.append(
                    Problem("", f"unknown option {argument}{suggestion(argument.partition('=')[0], known)}")
                )
            elif not after_unknown:  # else it is the unknown option's value
                problems.append(Problem("", f"unexpected argument {argument!r}"))
            after_unknown = argument.startswith("-")
        return problems


def suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, under the heading of its section. Values stay text: `settings.parse` reads them."""
    groups: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        group = groups.setdefault(option.section, parser.add_argument_group(option.section))
        shared: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": explain(name, option)}
        if TYPES[name] is bool:
            group.add_argument(option_flag(name), action=argparse.BooleanOptionalAction, **shared)
        else:
            many = TYPES[name] in (tuple[str, ...], tuple[int, ...])
            metavar = "{" + ",".join(option.choices) + "}" if option.choices else option.metavar or _metavar(name)
            # a missing value is reported with all other problems instead of ending the parsing
            counted: dict[str, Any] = {"action": "extend", "nargs": "*"} if many else {"nargs": "?", "const": ""}
            group.add_argument(option_flag(name), metavar=metavar, **counted, **shared)


def raw_settings(values: argparse.Namespace) -> dict[str, RawValue]:
    return {name: [""] if value == [] else value for name, value in vars(values).items() if name in TYPES}


def explain(name: str, option: Option) -> str:
    """An option's help: the families it is for, what it is, its unit and its default."""
    if option.families:
        return f"{titles(option.families)} only: {explain(name, replace(option, families=()))}"
    if name in REQUIRED:
        return option.help
    default = DEFAULTS[name]
    shown = "auto" if default is None and int in get_args(TYPES[name]) else default
    if isinstance(shown, bool) or shown in (None, "", ()):
        return option.help + (f" [{option.unit}]" if option.unit else "")
    if isinstance(shown, tuple):
        shown = " ".join(map(str, shown))
    return f"{option.help} [{shown}{' ' + option.unit if option.unit and shown != 'auto' else ''}]"


def _metavar(name: str) -> str:
    kind = TYPES[name]
    kinds = (kind, *get_args(kind))
    return "N" if int in kinds else "X" if float in kinds else "TEXT"
