"""What stops a training: signals on a terminal, lines on standard input where another program started it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag

LAST_CHANCE_S = (
    90.0  # from the end of the input to the end of the process: the host is gone, and nobody else can end it
)


@contextmanager
def stop_on_signals() -> Iterator[Flag]:
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


class Control:
    """The lines that come in: a request, then `go`, `sample` and `stop`; the end of them is a stop too."""

    def __init__(self, descriptor: int = 0) -> None:
        self._lines = _lines(descriptor)
        self._going, self._stopped, self._sample = Flag(), Flag(), Flag()

    def request(self) -> str:
        """The first line; empty if there is none."""
        return next(self._lines, "")

    def listen(self) -> None:
        """Take the other lines as they come, in a thread."""
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def goes(self) -> bool:
        """Wait for `go`; False if it is stopped instead."""
        self._going.wait()
        return not self._stopped.is_set()

    def stopped(self) -> bool:
        return self._stopped.is_set()

    def sample(self) -> bool:
        """Whether previews were asked for since the last time."""
        asked = self._sample.is_set()
        self._sample.clear()
        return asked

    def _listen(self) -> None:
        for line in self._lines:
            if line == "go":
                self._going.set()
            elif line == "sample":
                self._sample.set()
            elif line == "stop":
                self._stop()
        self._stop()
        threading.Event().wait(LAST_CHANCE_S)  # a daemon: a training that ends well takes this thread along
        os._exit(1)

    def _stop(self) -> None:
        self._stopped.set()
        self._going.set()


def _lines(descriptor: int) -> Iterator[str]:
    """Lines as they come. Not through `sys.stdin`, whose lock a waiting thread would hold when the program ends."""
    rest = b""
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            data = b""
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").strip()
