"""The command `sweep`, and what `resume` and `report` do with a sweep's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib_ti.cli.arguments import Parser, add_settings, raw_settings
from lib_ti.cli.control import say, stop_on_signals, unless_closed
from lib_ti.cli.exit_codes import FAILED, OK, STOPPED
from lib_ti.cli.progress import Progress
from lib_ti.runs.events import Event
from lib_ti.runs.sweeps.grid import SWEEPABLE, describe, split_values
from lib_ti.text import option_flag, printable

if TYPE_CHECKING:  # it imports torch
    from lib_ti.runs.sweeps.sweep import Sweep, SweepRun

_FLAGS = ", ".join(option_flag(name) for name in SWEEPABLE)
DESCRIPTION = (
    f"Train with every combination of several values, and compare. The options of `train`; {_FLAGS} take several values each. "
    "All are checked before the first starts; each becomes a word of its own, NAME with a suffix. RUNS_DIR/sweeps has the "
    "comparison."
)


def sweep(arguments: Sequence[str]) -> int:
    parser = Parser("sweep", DESCRIPTION)
    add_settings(parser, several=SWEEPABLE)
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON instead of progress bars")
    values, problems = parser.parse_collecting(arguments)
    single, several = split_values(raw_settings(values))
    from lib_ti.runs.sweeps.prepare import create_sweep, plan_sweep

    plan = plan_sweep(single, several, problems)
    for line in plan.pictures if not values.json else ():
        say(printable(f"In {line}"))
    for warning in plan.warnings if not values.json else ():
        say(printable(f"Note: {warning}"))
    return train(create_sweep(plan), values.json)


def resume(path: Path, as_json: bool) -> int:
    """Train the runs of a sweep that are not finished."""
    from lib_ti.runs.sweeps.sweep import Sweep

    return train(Sweep.open(path), as_json)


def report(path: Path) -> int:
    """Write the comparison of a sweep."""
    from lib_ti.runs.sweeps.comparison import write_comparison
    from lib_ti.runs.sweeps.sweep import Sweep

    print(printable(str(write_comparison(Sweep.open(path)))))
    return OK


def train(sweep: Sweep, as_json: bool) -> int:
    """Train a sweep to its end, show its events, and say where the comparison is."""
    from lib_ti.runs.sweeps.ranking import find_best, measure
    from lib_ti.runs.sweeps.train_sweep import train_sweep

    display = _Display(sweep, as_json)
    display.print(f"Sweep: {sweep.path}")
    with stop_on_signals() as stop:
        try:
            completed = train_sweep(sweep, display.start, display.handle, stop.is_set)
        finally:
            display.close()
    if not completed:
        display.print("Stopped. Nothing is lost: resume the sweep's folder to go on.")
        return STOPPED
    if best := find_best(measure(sweep)):
        display.print(f"The best is {best.run.name}: {best.reason}.")
    display.print(f"Comparison: {sweep.comparison}")
    return FAILED if any(run.state == "failed" for run in sweep.existing_runs) else OK


class _Display:
    """Shows the events of one run after another."""

    def __init__(self, sweep: Sweep, as_json: bool) -> None:
        self._sweep, self._as_json = sweep, as_json
        self._progress = Progress()

    def print(self, line: str) -> None:
        if not self._as_json:
            say(printable(line))

    def start(self, run: SweepRun) -> None:
        self._progress.close()
        position = self._sweep.runs.index(run) + 1
        self.print(f"\nTraining {position} of {len(self._sweep.runs)}: {run.name} ({describe(run.values)})".lstrip())

    def handle(self, run: SweepRun, event: Event) -> None:
        if self._as_json:
            say(json.dumps({"run": str(run.folder.path), **json.loads(event.to_json())}, ensure_ascii=False))
            return
        unless_closed(self._progress.handle)(event)
        if event.kind == "failed":
            self._progress.close()
            self.print(f"Failed: {event.data.get('message', '')}")

    def close(self) -> None:
        self._progress.close()
