"""Parse command lines with argparse, but collect all problems of one instead of stopping at the first."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_args

from lib_ti.errors import BadInput, Problem
from lib_ti.model.checkpoint.families import family_titles
from lib_ti.settings.option import Option, RawValue
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES
from lib_ti.text import option_flag, unquoted


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises BadInput instead of exiting, and can return unknown arguments as problems."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"python -m lib_ti {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise BadInput([Problem("", message)])

    def parse_collecting(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Problem]]:
        """The options, and a problem for each unknown argument."""
        values, unknown = self.parse_known_args(arguments)
        return values, self._unknown_argument_problems(unknown)

    def parse_strict(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options. Raises BadInput if there is any unknown argument."""
        values, problems = self.parse_collecting(arguments)
        if problems:
            raise BadInput(problems)
        return values

    def _unknown_argument_problems(self, unknown: Sequence[str]) -> list[Problem]:
        flags = [flag for action in self._actions for flag in action.option_strings]
        problems, follows_option = [], False
        for argument in unknown:
            if argument.startswith("-"):
                hint = did_you_mean(argument.partition("=")[0], flags)
                problems.append(Problem("", f"unknown option {argument}{hint}"))
            elif not follows_option:  # else it is the unknown option's value
                problems.append(Problem("", f"unexpected argument {argument!r}"))
            follows_option = argument.startswith("-")
        return problems


def path_argument(text: str) -> Path:
    """A path as it is given on a command line, perhaps within quotes that a file manager has put around it."""
    return Path(unquoted(text))


def did_you_mean(text: str, valid: Sequence[str]) -> str:
    """A hint at the valid word that is most similar to `text`; empty if none is."""
    matches = difflib.get_close_matches(text, valid, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def add_settings(parser: argparse.ArgumentParser, several: Sequence[str] = ()) -> None:
    """Add a flag for each setting, grouped by section. Values stay text; `train_settings.parse` converts them.

    `several`: settings that may have several values, and come as lists.
    """
    groups: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        group = groups.setdefault(option.section, parser.add_argument_group(option.section))
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": option_help(name, option)}
        if TYPES[name] is bool:
            group.add_argument(option_flag(name), action=argparse.BooleanOptionalAction, **common)
        else:
            is_list = name in several or TYPES[name] in (tuple[str, ...], tuple[int, ...])
            metavar = "{" + ",".join(option.choices) + "}" if option.choices else option.metavar or _metavar(name)
            # a missing value must not end the parsing: it is reported together with all other problems
            arity: dict[str, Any] = {"action": "extend", "nargs": "*"} if is_list else {"nargs": "?", "const": ""}
            group.add_argument(option_flag(name), metavar=metavar, **arity, **common)


def raw_settings(values: argparse.Namespace) -> dict[str, RawValue]:
    """The settings among parsed options, as `train_settings.parse` takes them."""
    return {name: [""] if value == [] else value for name, value in vars(values).items() if name in TYPES}


def option_help(name: str, option: Option) -> str:
    """An option's help: the families it applies to, its meaning, its default and unit."""
    if option.families:
        return f"{family_titles(option.families)} only: {option_help(name, replace(option, families=()))}"
    if name in REQUIRED:
        return option.help
    default = DEFAULTS[name]
    if default is None and int in get_args(TYPES[name]):
        default = "auto"
    if isinstance(default, bool) or default in (None, "", ()):
        return option.help + (f" [{option.unit}]" if option.unit else "")
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return f"{option.help} [{default}{' ' + option.unit if option.unit and default != 'auto' else ''}]"


def _metavar(name: str) -> str:
    types = (TYPES[name], *get_args(TYPES[name]))
    return "N" if int in types else "X" if float in types else "TEXT"
