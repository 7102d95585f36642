"""Every error a user can meet, with a message written for that user.

TextualInversionError        anything that ends a request; its text says what happened and what to do
├── BadInput                 the request cannot be carried out as asked; nothing was written (exit code 2)
├── UnusableFile             a file is not what it should be; becomes a problem of the option that named it
├── RunBusy                  another process is working on this run
└── TrainingFailed           the training itself went wrong; the run folder holds all there is
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class TextualInversionError(Exception):
    """The root: `str(error)` is a sentence for the user."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request. `option` is the setting's name, as in `TrainSettings`; empty if none."""

    option: str
    message: str

    def __str__(self) -> str:
        flag = "--" + self.option.replace("_", "-") + ": " if self.option else ""
        return flag + self.message


class BadInput(TextualInversionError):
    """All problems of one request, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnusableFile(TextualInversionError):
    """A file that cannot be used, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: {reason}")


class RunBusy(TextualInversionError):
    """The run is being worked on by another process."""


class TrainingFailed(TextualInversionError):
    """The training cannot go on: a loss that is no number, a word that learns nothing, no memory left."""
