"""Work in a thread of its own, one piece at a time, that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable

EXIT_TIMEOUT_S = 25.0  # more than a lent child gets

Work = Callable[[threading.Event], None]
"""Takes the event that is set once it shall end."""


class BackgroundTask:
    """The thread of one kind of work."""

    def __init__(self, name: str) -> None:
        """`name`: of its threads, in logs."""
        self._name = name
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, prepare: Callable[[], Work]) -> bool:
        """Start the work that `prepare` returns; False, and `prepare` is not called, while other work goes on."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return False
            work, self._cancelled = prepare(), threading.Event()
            self._thread = threading.Thread(target=work, args=(self._cancelled,), name=self._name, daemon=True)
            self._thread.start()
            return True

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        """Cancel, and wait for the end for some seconds."""
        self.cancel()
        if thread := self._thread:
            thread.join(EXIT_TIMEOUT_S)
