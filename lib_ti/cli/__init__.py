"""The command line: `python -m lib_ti COMMAND`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence

from lib_ti import __version__
from lib_ti.cli import commands, suggest, sweep, train, ui, work
from lib_ti.cli.arguments import did_you_mean
from lib_ti.cli.control import discard_output
from lib_ti.cli.exit_codes import BAD_INPUT, FAILED, OK, STOPPED
from lib_ti.errors import BadInput, RunBusy, TextualInversionError, UnusableFile
from lib_ti.text import printable

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train.train, "learn a new word from pictures"),
    "sweep": (sweep.sweep, "train with several values, and compare"),
    "suggest": (suggest.suggest, "find words to start from"),
    "resume": (train.resume, "go on with a run or a sweep"),
    "runs": (commands.runs, "list runs"),
    "forget": (commands.forget, "delete a run's copies of your pictures"),
    "report": (commands.report, "write a page about a run or a sweep"),
    "generate": (commands.generate, "make pictures with embeddings"),
    "inspect": (commands.inspect, "describe an embedding file"),
    "convert": (commands.convert, "write an embedding in another format"),
    "work": (work.work, ""),
    "ui": (ui.ui, "open a web page for all of it"),
    "doctor": (commands.doctor, "look at what this machine has"),
}
"""Function and description of each command; those without a description are not in the usage."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. Errors become messages on stderr, without control characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path or a message may contain what the console's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return OK if arguments else BAD_INPUT
    if arguments[0] == "--version":
        print(__version__)
        return OK
    if arguments[0] not in COMMANDS:
        print(f"unknown command {arguments[0]}{did_you_mean(arguments[0], list(COMMANDS))}", file=sys.stderr)
        return BAD_INPUT
    try:
        code = COMMANDS[arguments[0]][0](arguments[1:])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        discard_output()
        return OK
    except BadInput as error:
        for problem in error.problems:
            print(printable(str(problem)), file=sys.stderr)
        return BAD_INPUT
    except (UnusableFile, RunBusy) as error:
        print(printable(str(error)), file=sys.stderr)
        return BAD_INPUT
    except TextualInversionError as error:
        print(f"Failed: {printable(str(error))}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(printable(f"Failed: {error.strerror or error}: {error.filename or ''}"), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return STOPPED


def _usage() -> str:
    lines = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items() if text]
    return "\n".join(["python -m lib_ti COMMAND ...", "", *lines, "", "python -m lib_ti COMMAND --help tells more."])
