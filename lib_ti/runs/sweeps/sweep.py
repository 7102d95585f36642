"""A sweep on disk: which runs belong together, and what distinguishes them. What became of them is in their own folders.

RUNS_DIR/sweeps/NAME-DATE/sweep.json       the record
RUNS_DIR/sweeps/NAME-DATE/comparison.html  the runs side by side
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti import __version__, files
from lib_ti.errors import UnusableFile
from lib_ti.runs.folder import RunFolder

FOLDER = "sweeps"
RECORD = "sweep.json"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep. `values`: of the options that differ within the sweep, as the user gave them."""

    folder: RunFolder
    values: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of its embedding."""
        return self.folder.path.parent.name

    @property
    def exists(self) -> bool:
        """False if the run was deleted."""
        return (self.folder.path / "settings.json").is_file()

    @property
    def state(self) -> str:
        """finished, stopped or failed, as its log says; running; or waiting, if it has not begun or was cut off."""
        if self.folder.running:
            return "running"
        last = self.folder.history().last
        return last.kind if last and last.kind in ("finished", "stopped", "failed") else "waiting"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and what its record says. `created`: seconds since 1970."""

    path: Path
    name: str
    created: float
    runs: Sequence[SweepRun]

    @classmethod
    def create(cls, runs_dir: Path, name: str, runs: Sequence[SweepRun]) -> Sweep:
        """Record the runs, which are below `runs_dir`, as a sweep."""
        created, number = time.time(), 1
        stem = f"{name}-{time.strftime('%Y-%m-%dT%H-%M-%S', time.localtime(created))}"
        while True:
            path = runs_dir.absolute() / FOLDER / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
        record = {
            "lib_ti": __version__,
            "name": name,
            "created": created,
            "runs": [
                {"run": run.folder.path.relative_to(runs_dir.absolute()).as_posix(), "values": dict(run.values)}
                for run in runs
            ],
        }
        files.atomic_write_bytes(path / RECORD, json.dumps(record, indent=1).encode())
        return cls(path, name, created, tuple(runs))

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """Open an existing sweep. Raises UnusableFile if `path` is not a sweep's folder, or its record is damaged."""
        path = path.absolute()
        try:
            record: dict[str, Any] = json.loads((path / RECORD).read_text(encoding="utf-8"))
            runs_dir = path.parent.parent
            runs = tuple(
                SweepRun(RunFolder(_below(runs_dir, run["run"])), {str(k): str(v) for k, v in run["values"].items()})
                for run in record["runs"]
            )
            return cls(path, str(record["name"]), float(record["created"]), runs)
        except FileNotFoundError as error:
            raise UnusableFile(path, f"this is not a sweep: it has no {RECORD}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnusableFile(path / RECORD, f"unreadable ({error})") from error

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.html"

    @property
    def existing_runs(self) -> list[SweepRun]:
        """Those that were not deleted."""
        return [run for run in self.runs if run.exists]

    @property
    def unfinished_runs(self) -> list[SweepRun]:
        """Those that a resume has to train."""
        return [run for run in self.existing_runs if run.state != "finished"]

    @property
    def options(self) -> dict[str, list[str]]:
        """The values of each option that differs, in order."""
        options: dict[str, list[str]] = {}
        for run in self.runs:
            for option, text in run.values.items():
                if text not in options.setdefault(option, []):
                    options[option].append(text)
        return options


def is_sweep(path: Path) -> bool:
    """Whether `path` is a sweep's folder."""
    return (path / RECORD).is_file()


def find_sweeps(runs_dir: Path) -> Iterator[Sweep]:
    """The sweeps whose runs are below `runs_dir`, the newest first; damaged ones are left out."""
    sweeps = []
    for record in (runs_dir / FOLDER).glob(f"*/{RECORD}"):
        try:
            sweeps.append(Sweep.open(record.parent))
        except UnusableFile:
            continue
    yield from sorted(sweeps, key=lambda sweep: sweep.created, reverse=True)


def _below(folder: Path, relative: str) -> Path:
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{relative} is not below {folder}")
    return path
