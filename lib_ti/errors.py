"""The errors that a user can meet, each with a message written for that user.

TextualInversionError        the base class; its message says what happened and what to do
├── BadInput                 the request is invalid; nothing was written (exit code 2)
├── UnusableFile             a file is missing, damaged or of another kind; becomes a `Problem` of the option that named it
├── RunBusy                  another process is training this run
└── TrainingFailed           the training itself failed; the run folder keeps everything up to then
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_ti.text import option_flag


class TextualInversionError(Exception):
    """Base class; `str(error)` is a sentence for the user."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        option: the setting's name, as in `TrainSettings`; empty where the problem belongs to none.
        message: a sentence without its subject, which is the option.
    """

    option: str
    message: str

    def __str__(self) -> str:
        return f"{option_flag(self.option)}: {self.message}" if self.option else self.message


class BadInput(TextualInversionError):
    """All problems of one request, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnusableFile(TextualInversionError):
    """A file that cannot be used, and why: `reason` alone, and `str(error)` with the path in front of it."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class RunBusy(TextualInversionError):
    """Another process is training this run."""


class TrainingFailed(TextualInversionError):
    """The training cannot continue: a loss that is not finite, no gradient, out of memory."""
