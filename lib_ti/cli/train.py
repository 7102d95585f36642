"""The commands `train` and `resume`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lib_ti.cli import sweep
from lib_ti.cli.arguments import Parser, add_settings, path_argument, raw_settings
from lib_ti.cli.control import say, stop_on_signals, unless_closed
from lib_ti.cli.exit_codes import OK, STOPPED
from lib_ti.cli.progress import Progress
from lib_ti.data.captions import usage
from lib_ti.errors import BadInput, Problem
from lib_ti.runs.events import Event
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.sweeps.sweep import is_sweep
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.text import printable


def train(arguments: Sequence[str]) -> int:
    parser = Parser("train", "Learn a new word from pictures.")
    add_settings(parser)
    _add_json(parser)
    values, argument_problems = parser.parse_collecting(arguments)
    settings, problems = parse(raw_settings(values))
    from lib_ti.runs.execute import create_run
    from lib_ti.training.preflight.preflight import preflight

    plan = preflight(settings, argument_problems + problems)
    pictures = Event("pictures", {"summary": plan.pictures}, time.time())
    say(pictures.to_json() if values.json else printable(f"In {settings.images}: {plan.pictures}"))
    return _run(create_run(plan).path, values.json, plan.warnings)


def resume(arguments: Sequence[str]) -> int:
    parser = Parser(
        "resume", "Go on with a run or a sweep that was stopped or killed, or train a finished run further."
    )
    parser.add_argument("run", type=path_argument, metavar="FOLDER", help="of a run, or of a sweep")
    parser.add_argument("--steps", metavar="N", help="the new total of steps")
    parser.add_argument("--device", metavar="DEVICE", help="another device than the one it began on")
    parser.add_argument("--model", metavar="FILE", help="where the checkpoint is now, as on another machine")
    parser.add_argument("--vae", metavar="FILE", help="where the VAE is now, if the run has one of its own")
    parser.add_argument("--out", metavar="DIR", help="another folder for the embedding")
    parser.add_argument(
        "--force", action="store_true",
        help="go on although the checkpoint, a picture or a template is another than before; the metadata says so",
    )  # fmt: skip
    _add_json(parser)
    values = parser.parse_strict(arguments)
    options = ("steps", "device", "model", "vae", "out")
    if is_sweep(values.run):
        if given := [name for name in (*options, "force") if getattr(values, name) not in (None, False)]:
            raise BadInput(
                [Problem(name, "cannot be changed for a whole sweep; resume its runs one by one") for name in given]
            )
        return sweep.resume(values.run, values.json)
    from lib_ti.runs.resume import resume

    folder = RunFolder.open(values.run)
    changes: dict[str, RawValue] = {
        name: getattr(values, name) for name in options if getattr(values, name) is not None
    }
    if not resume(folder, changes, values.force):
        step = folder.saved_step
        print(f"This run was finished at step {step}; --steps with a larger total trains it further.", file=sys.stderr)
        return OK
    return _run(folder.path, values.json, ())


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON instead of a progress bar")


def _run(path: Path, as_json: bool, warnings: Sequence[str]) -> int:
    from lib_ti.runs.execute import execute_run

    folder, progress = RunFolder.open(path), Progress()
    if not as_json:
        say(f"Run folder: {folder.path}")
    try:
        with stop_on_signals() as stop:
            finished = execute_run(
                folder, unless_closed(_print_json if as_json else progress.handle), stop.is_set, warnings
            )
    finally:
        progress.close()
    if finished and not as_json:
        settings = folder.settings
        say(usage(settings.name, settings.kind))
    return OK if finished else STOPPED


def _print_json(event: Event) -> None:
    print(event.to_json(), flush=True)
