"""`train` and `resume`."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag

from lib_ti.cli.arguments import Parser, add_settings, raw_settings
from lib_ti.cli.progress import Progress
from lib_ti.errors import BadInput, Problem, RunBusy, UnusableFile
from lib_ti.events import Event
from lib_ti.option import Raw
from lib_ti.runs.folder import RunFolder
from lib_ti.settings import REQUIRED, TrainSettings, parse

STOPPED = 130


def train(arguments: Sequence[str]) -> int:
    parser = Parser("train", "Learn a new word from pictures.")
    add_settings(parser)
    _add_json(parser)
    values, problems = parser.read(arguments)
    settings, found = parse(raw_settings(values))
    from lib_ti.runs.execute import create
    from lib_ti.training.preflight import preflight

    plan = preflight(settings, problems + found)
    return _run(create(plan).path, values.json, plan.warnings)


def resume(arguments: Sequence[str]) -> int:
    parser = Parser("resume", "Go on with a run that was stopped or killed, or train a finished one further.")
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--steps", metavar="N", help="the new total of steps")
    parser.add_argument("--device", metavar="DEVICE", help="another device than the one it began on")
    _add_json(parser)
    values = parser.read_strictly(arguments)
    folder = RunFolder.open(values.run)
    if folder.running:
        raise RunBusy(f"{folder.path} is being trained by another process")
    settings = folder.settings
    given: dict[str, Raw] = {
        name: getattr(values, name) for name in ("steps", "device") if getattr(values, name) is not None
    }
    asked, problems = parse({**dict.fromkeys(REQUIRED, "x"), **given})
    done = folder.saved_step
    if "steps" in given and not problems and asked.steps < done:
        problems = [Problem("steps", f"the run has made {done} steps already; give a larger total")]
    if problems:
        raise BadInput(problems)
    settings = dataclasses.replace(settings, **{name: getattr(asked, name) for name in given})
    _check(settings, folder)
    if done >= settings.steps and (settings.out / f"{settings.name}.safetensors").exists():
        print(f"This run was finished at step {done}; --steps with a larger total trains it further.", file=sys.stderr)
        return 0
    folder.store_settings(settings)
    return _run(folder.path, values.json, ())


def _check(settings: TrainSettings, folder: RunFolder) -> None:
    """What a run needs from outside must still be there. Raises BadInput or UnusableFile."""
    from lib_ti.runs.execute import checkpoint_of
    from lib_ti.training.device import choose_device
    from lib_ti.training.places import unwritable

    if not settings.model.exists():
        raise UnusableFile(settings.model, "the checkpoint of this run is not there any more; put it back to go on")
    checkpoint_of(settings)
    problems = []
    try:
        choose_device(settings.device)
    except ValueError as error:
        problems.append(Problem("device", str(error)))
    if reason := unwritable(settings.out, parents=False):
        problems.append(Problem("out", reason))
    if not folder.images.is_dir() and not settings.images.is_dir():
        problems.append(Problem("images", f"{settings.images} is gone, and the run has no copies of its pictures yet"))
    if problems:
        raise BadInput(problems)


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON instead of a progress bar")


def _run(path: Path, as_json: bool, warnings: Sequence[str]) -> int:
    from lib_ti.runs.execute import execute

    folder, progress = RunFolder.open(path), Progress()
    if not as_json:
        print(f"Run folder: {folder.path}", flush=True)
    try:
        with _stop_on_signals() as stop:
            finished = execute(folder, _print_json if as_json else progress.watch, stop.is_set, warnings)
    finally:
        progress.close()
    return 0 if finished else STOPPED


def _print_json(event: Event) -> None:
    print(event.to_json(), flush=True)


@contextmanager
def _stop_on_signals() -> Iterator[Flag]:
    """Ctrl-C and a request to terminate set the flag, so that the training saves and ends; a second one ends it at once."""
    stop = Flag()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    earlier = {getattr(signal, n): signal.signal(getattr(signal, n), ask) for n in names if hasattr(signal, n)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
