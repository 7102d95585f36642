"""A lock on a run that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lib_ti.errors import RunBusy


class RunLock:
    """Held from `acquire` to `release`, or until the process is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def acquire(self, patience_s: float = 1.0) -> None:
        """Raises RunBusy if another process holds it. For a moment whoever only looks at it may hold it, too."""
        file = self._path.open("ab")
        deadline = time.monotonic() + patience_s
        while True:
            try:
                _lock(file.fileno())
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                file.close()
                raise RunBusy(f"{self._path.parent} is being trained by another process") from None
            self._file = file
            return

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_held(path: Path) -> bool:
    """Whether some process holds the lock at `path`."""
    if not path.exists():
        return False
    lock = RunLock(path)
    try:
        lock.acquire(patience_s=0)
    except RunBusy:
        return True
    lock.release()
    return False


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
