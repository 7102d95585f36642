"""This project's own trainer as one of the programs that are measured."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from programs import ROOT, Program

PRIVATE = ROOT / "private"


class Ours(Program):
    """`python -m lib_ti train`, by its own events. It is halted by a signal while others have their turn."""

    def __init__(self, python: Path, options: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = ["-m", "lib_ti", "train", *flags, *extra, "--json"]
        super().__init__("ours", python, command, ROOT, environment(python))
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.runs = Path(options["runs-dir"])

    @property
    def settings(self) -> dict[str, Any]:
        """Of the run, with nothing "auto" any more."""
        (path,) = self.runs.rglob("settings.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _hear(self, line: str, moment: float) -> None:
        if line.startswith('{"kind"'):
            event = json.loads(line)
            self._moments.append((event["kind"], event["time"]))
            self.events.put(event)

    def to_the_end(self, on_card: bool) -> list[dict[str, Any]]:
        """Let it train to its end; what it reported. Raises Failed."""
        self.on_card, events = on_card, list[dict[str, Any]]()
        with self._memory():
            self.launch()
            while not events or events[-1]["kind"] != "finished":
                events.append(self.next_event())
        return events

    def launch(self) -> None:
        """Start it and let it run on."""
        self._spawn([str(self.python), *self.command])

    def _launch(self) -> None:
        self.launch()
        self.await_event("step")
        self._halt()

    def _turn(self, steps: int) -> float:
        assert self._process
        resumed = time.time()
        os.killpg(self._process.pid, signal.SIGCONT)
        began = self.await_event("step", resumed)["time"]  # of the step that the halt fell into
        for _ in range(steps):
            ended = self.await_event("step", resumed)["time"]
        self._halt()
        return float(ended - began) / steps

    def _halt(self) -> None:
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)

    def await_event(self, kind: str, since: float = 0.0) -> dict[str, Any]:
        """The next event of a kind, of those that have happened since. Raises Failed."""
        while (event := self.next_event())["kind"] != kind or event["time"] < since:
            pass
        return event

    def next_event(self) -> dict[str, Any]:
        """What it reports next. Raises Failed."""
        found: list[dict[str, Any]] = []

        def come() -> bool:
            try:
                found.append(self.events.get(timeout=0.05))
            except queue.Empty:
                return False
            return True

        self._wait(come)
        return found[0]

    def _encoded(self) -> list[float]:
        return [moment for kind, moment in self._moments if kind == "encoding"]


def environment(python: Path) -> dict[str, str]:
    """What this project needs to run in a Python: where diffusers is not installed, as in A1111, its private copy."""
    asked = [str(python), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('diffusers') is None)"]
    if subprocess.run(asked, cwd=Path(python).parent, check=False).returncode == 0:
        return {"PYTHONPATH": str(ROOT)}
    if not PRIVATE.is_dir():
        raise SystemExit(f"{python} has no diffusers; run `{python} install.py` first")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PRIVATE)])}
