"""Stop a training from outside: by signals in a terminal, by lines on standard input where another program started it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event as Flag
from typing import Any

from lib_ti.runs.events import Event

EXIT_DELAY_S = 90.0
"""From the end of the input to the end of the process, in which the training can save. The parent is gone by then."""

_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO}
"""What a write answers when nobody reads a pipe any more, or the terminal is closed."""


@contextmanager
def stop_on_signals() -> Iterator[Flag]:
    """Yield a flag that Ctrl-C, SIGTERM and SIGHUP set, so that the training saves and ends; a second one interrupts it at once.

    A terminal that closes sends SIGHUP more than once, which counts as one. It stays ignored under `nohup`.
    """
    stop = Flag()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    handlers: dict[str, Any] = dict.fromkeys(("SIGINT", "SIGTERM", "SIGBREAK"), handle)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers["SIGHUP"] = lambda number, frame: stop.set()
    present = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    previous = {number: signal.signal(number, handler) for number, handler in present.items()}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def discard_output() -> None:
    """Let whatever is printed from here on go nowhere: nobody reads it any more, and each line would be an error."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream is sys.stdout or _is_gone(stream):
                os.dup2(null, stream.fileno())
        os.close(null)


def _is_gone(stream: Any) -> bool:
    """Whether a stream's terminal is closed, or its pipe has no reader."""
    try:
        stream.flush()
        os.write(stream.fileno(), b"\r" if stream.isatty() else b"")
    except OSError:
        return True
    return False


def say(line: str) -> None:
    """Print a line, unless nobody reads the output any more; what the command does goes on."""
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        discard_output()


def unless_closed(show: Callable[[Event], None]) -> Callable[[Event], None]:
    """`show`, but a training goes on where whoever read its output, such as `head`, has seen enough."""

    def show_while_read(event: Event) -> None:
        try:
            show(event)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            discard_output()

    return show_while_read


class Control:
    """The parent's lines on standard input: a request, then `go`, `sample` and `stop`; the end of the input stops too."""

    def __init__(self, descriptor: int = 0) -> None:
        self._lines = _read_lines(descriptor)
        self._started, self._stopped, self._preview_requested = Flag(), Flag(), Flag()

    def read_request(self) -> str:
        """The first line; empty if there is none."""
        return next(self._lines, "")

    def listen(self) -> None:
        """Read the other lines in a thread."""
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def wait_for_go(self) -> bool:
        """Wait for `go`; False if the training is stopped before."""
        self._started.wait()
        return not self._stopped.is_set()

    def stopped(self) -> bool:
        return self._stopped.is_set()

    def preview_requested(self) -> bool:
        """Whether previews were requested since the last call."""
        requested = self._preview_requested.is_set()
        self._preview_requested.clear()
        return requested

    def _listen(self) -> None:
        for line in self._lines:
            if line == "go":
                self._started.set()
            elif line == "sample":
                self._preview_requested.set()
            elif line == "stop":
                self._stop()
        self._stop()
        threading.Event().wait(EXIT_DELAY_S)  # this daemon thread does not outlive a training that ends in time
        os._exit(1)

    def _stop(self) -> None:
        self._stopped.set()
        self._started.set()


def _read_lines(descriptor: int) -> Iterator[str]:
    """Yield complete lines. Not through `sys.stdin`, whose lock the waiting thread would hold at the interpreter's exit."""
    rest = b""
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            data = b""
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").strip()
