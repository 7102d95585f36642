"""This project's trainer as one of the measured programs."""

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

from program import ROOT, Program

PRIVATE = ROOT / "private"


class OwnProgram(Program):
    """`python -m lib_ti train`, timed by its own events; SIGSTOP pauses it while other programs have their turn."""

    def __init__(self, python: Path, options: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = ["-m", "lib_ti", "train", *flags, *extra, "--json"]
        super().__init__("ours", python, command, ROOT, environment(python))
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.runs = Path(options["runs-dir"])

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings, with "auto" resolved."""
        (path,) = self.runs.rglob("settings.json")
        settings: dict[str, Any] = json.loads(path.read_text())
        return settings

    def _handle_line(self, line: str, timestamp: float) -> None:
        if line.startswith('{"kind"'):
            event = json.loads(line)
            self._timestamps.append((event["kind"], event["time"]))
            self.events.put(event)

    def run_to_end(self, on_gpu: bool) -> list[dict[str, Any]]:
        """Train to the end; all events. Raises ProgramFailed."""
        self.on_gpu, events = on_gpu, list[dict[str, Any]]()
        with self._measure_memory():
            self.launch()
            while not events or events[-1]["kind"] != "finished":
                events.append(self.next_event())
        return events

    def launch(self) -> None:
        """Start it without waiting or pausing."""
        self._spawn([str(self.python), *self.command])

    def _start(self) -> None:
        self.launch()
        self.await_event("step")
        self._pause()

    def _run_steps(self, steps: int) -> float:
        assert self._process
        resume_time = time.time()
        os.killpg(self._process.pid, signal.SIGCONT)
        start = self.await_event("step", resume_time)["time"]  # the end of the step that was interrupted
        for _ in range(steps):
            end = self.await_event("step", resume_time)["time"]
        self._pause()
        return float(end - start) / steps

    def _pause(self) -> None:
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)

    def await_event(self, kind: str, since: float = 0.0) -> dict[str, Any]:
        """The next event of a kind after a time. Raises ProgramFailed."""
        while (event := self.next_event())["kind"] != kind or event["time"] < since:
            pass
        return event

    def next_event(self) -> dict[str, Any]:
        """The next event. Raises ProgramFailed."""
        received: list[dict[str, Any]] = []

        def event_received() -> bool:
            try:
                received.append(self.events.get(timeout=0.05))
            except queue.Empty:
                return False
            return True

        self._wait(event_received)
        return received[0]

    def _encoding_timestamps(self) -> list[float]:
        return [timestamp for kind, timestamp in self._timestamps if kind == "encoding"]


def environment(python: Path) -> dict[str, str]:
    """Environment variables to run this project in a Python; where diffusers is missing, as in A1111's, with the private copy."""
    command = [str(python), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('diffusers') is None)"]
    if subprocess.run(command, cwd=Path(python).parent, check=False).returncode == 0:
        return {"PYTHONPATH": str(ROOT)}
    if not PRIVATE.is_dir():
        raise SystemExit(f"{python} has no diffusers; run `{python} install.py` first")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PRIVATE)])}
