"""A training in a process of its own: started, spoken to, and known by what it leaves.

The child runs the host's Python on this package. It is asked with one line of JSON, `{"settings": ...}` or `{"run": ...}`,
answers with one (`cli.work`), and then waits for lines: `go`, `sample`, `stop`. The end of its input is a stop too, so it
never outlives whoever started it by more than it takes to save.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, TrainingFailed

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ROOT / "private"
"""Packages that install.py brought along for the child alone."""


class Worker:
    """A started child process."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Start it and hand it its request; `answer` waits for what it says to it."""
        self._answer: dict[str, Any] | None = None
        self._complaints: deque[str] = deque(maxlen=60)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _program()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
            errors="replace",
            **_detached(),
        )
        self._listener = threading.Thread(target=self._listen, name="textual-inversion-stderr", daemon=True)
        self._listener.start()
        self._say(json.dumps(request))

    def answer(self) -> dict[str, Any]:
        """What it says to its request; the first time it takes as long as importing torch. Raises BadInput or TrainingFailed."""
        if self._answer is not None:
            return self._answer
        assert self._process.stdout
        line = next((line for line in self._process.stdout if line.startswith("{")), "")  # libraries may greet first
        if not line:
            raise TrainingFailed(f"the training process could not start ({self.last_words() or self.exit_code()})")
        answer: dict[str, Any] = json.loads(line)
        if "problems" in answer:
            raise BadInput(Problem(**problem) for problem in answer["problems"])
        if "error" in answer:
            raise TrainingFailed(answer["error"])
        self._answer = answer
        return answer

    def go(self) -> None:
        """Let it train."""
        self._say("go")

    def sample(self) -> None:
        """Let it make previews after the step it is at."""
        self._say("sample")

    def stop(self) -> None:
        """Let it save and end."""
        self._say("stop")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def exit_code(self, timeout_s: float | None = None) -> int | None:
        """How it ended, negative for a signal; None if it is still running after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Let go of it: it saves, if it trains, and ends."""
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream:
                    stream.close()
            except OSError:  # it is gone already, with a line to it unread
                pass

    def last_words(self) -> str:
        """The last line that it complained with."""
        self._listener.join(1.0)
        return self._complaints[-1] if self._complaints else ""

    def _say(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended: whoever waits for it will see
            pass

    def _listen(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                if line.strip():
                    self._complaints.append(line.rstrip())


def _program() -> str:
    """Python that finds this package whatever the working directory; an embedded Python ignores PYTHONPATH, too."""
    paths = [str(ROOT), *([str(PRIVATE)] if PRIVATE.is_dir() else [])]
    return f"import sys; sys.path[:0] = {paths!r}; from lib_ti.cli import main; sys.exit(main(['work']))"


def _detached() -> dict[str, Any]:
    """Out of reach of the host's Ctrl-C: the end of its input tells it, and it shall save in peace."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
