"""Runs a child process to which the host's GPU is lent, for work that has nothing to save when it is stopped."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lib_ti.runs import worker

POLL_INTERVAL_S = 0.2
EXIT_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ChildEnd:
    """How a child ended: whether it was stopped, and the last line that it wrote to its standard error, or its exit code."""

    stopped: bool
    reason: str


def run_child(
    program: str, should_stop: Callable[[], bool], on_line: Callable[[str], None], request: str = ""
) -> ChildEnd:
    """Run a program to its end, or until it should stop. `request`: a line for its input; `on_line` gets each line it prints."""
    child = worker.start_child(program)
    assert child.stdin
    assert child.stdout
    assert child.stderr
    if request:
        with suppress(OSError):  # it has exited already
            child.stdin.write(request + "\n")
            child.stdin.flush()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(child.stdout, on_line), daemon=True),
        threading.Thread(target=_read, args=(child.stderr, errors.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        while child.poll() is None and not should_stop():
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_INTERVAL_S)
    finally:
        is_stopped = child.poll() is None
        _end(child)  # nobody else may use the GPU before
        for reader in readers:
            reader.join(1.0)
    reason = next((line.strip() for line in reversed(errors) if line.strip()), f"exit code {child.returncode}")
    return ChildEnd(is_stopped, reason)


def _read(lines: Any, on_line: Callable[[str], None]) -> None:
    for line in lines:
        on_line(line)


def _end(child: subprocess.Popen[str]) -> None:
    """End the process; it has nothing to save."""
    child.terminate()
    try:
        child.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            with suppress(OSError):
                stream.close()
