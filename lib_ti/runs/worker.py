"""The child process that trains: how it is started, controlled and read.

The worker runs the host's Python on this package. It is sent a request as one line of JSON, `{"settings": ...}` or `{"run":
...}`, replies with one (`cli.work`), and then waits for lines: `go`, `sample`, `stop`. End of file stops it too, so it outlives
its parent only by the time it needs to save. On `{"sweep": ...}` it creates the runs of a sweep, replies and ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, TrainingFailed

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ROOT / "private"
"""Packages that install.py installed for the worker alone."""
STDERR_LINES = 60  # kept for error messages


class Worker:
    """A running worker process."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Start the process and send it the request; `reply` waits for its reply."""
        self._reply: dict[str, Any] | None = None
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._process = start_child(_program())
        self._stderr_reader = threading.Thread(target=self._read_stderr, name="textual-inversion-stderr", daemon=True)
        self._stderr_reader.start()
        self._send(json.dumps(request))

    def reply(self) -> dict[str, Any]:
        """The reply to the request; the first call takes as long as importing torch. Raises BadInput or TrainingFailed."""
        if self._reply is not None:
            return self._reply
        assert self._process.stdout
        # libraries may print to stdout while they are imported
        line = next((line for line in self._process.stdout if line.startswith("{")), "")
        if not line:
            raise TrainingFailed(
                f"the training process could not start ({self.last_stderr_line() or self.exit_code()})"
            )
        reply: dict[str, Any] = json.loads(line)
        if "problems" in reply:
            raise BadInput(Problem(**problem) for problem in reply["problems"])
        if "error" in reply:
            raise TrainingFailed(reply["error"])
        self._reply = reply
        return reply

    def start_training(self) -> None:
        self._send("go")

    def request_previews(self) -> None:
        """Let it sample previews after the current step."""
        self._send("sample")

    def stop(self) -> None:
        """Let it save and exit."""
        self._send("stop")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def exit_code(self, timeout_s: float | None = None) -> int | None:
        """Wait for the exit code, negative for a signal; None if it is still running after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """End it although somebody waits for its reply, which will be that it could not start."""
        self._process.terminate()

    def close(self) -> None:
        """Close the pipes to it: it saves, if it is training, and exits."""
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream:
                    stream.close()
            except OSError:  # it has exited already, with a line to it unread
                pass

    def last_stderr_line(self) -> str:
        self._stderr_reader.join(1.0)
        return self._stderr[-1] if self._stderr else ""

    def _send(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has exited: whoever waits for its exit code will see
            pass

    def _read_stderr(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                if line.strip():
                    self._stderr.append(line.rstrip())


def start_child(program: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start the host's Python on a program, with pipes for its standard streams."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        errors="replace",
        **_own_process_group(),
    )


def command_program(arguments: Sequence[str]) -> str:
    """A program that runs a command of ours from any working directory; an embedded Python ignores PYTHONPATH."""
    return program(f"from lib_ti.cli import main; sys.exit(main({[*arguments]!r}))")


def program(statements: str) -> str:
    """A program that executes `statements` with our packages on its path."""
    paths = [str(ROOT), *([str(PRIVATE)] if PRIVATE.is_dir() else [])]
    return f"import sys; sys.path[:0] = {paths!r}; {statements}"


def _program() -> str:
    return command_program(["work"])


def _own_process_group() -> dict[str, Any]:
    """Popen arguments that keep the host's Ctrl-C from the worker: end of file tells it to save and exit instead."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
