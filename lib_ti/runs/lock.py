"""A lock on a run folder that the operating system releases when its holder exits, however it exits.

Not the `filelock` package, because the host decides which version is installed: on Unix 3.21 to 3.24 unlink the lock file on
release, and 3.24 and 4.x fall back to a `SoftFileLock`, which survives a killed holder. These few lines need no clean-up.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lib_ti.errors import RunBusy


class RunLock:
    """Held from `acquire` to `release`, or until the process exits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def acquire(self, timeout_s: float = 1.0) -> None:
        """Raises RunBusy if another process holds the lock for longer than `timeout_s`; `is_held` takes it for a moment."""
        file = self._path.open("ab")
        deadline = time.monotonic() + timeout_s
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
        lock.acquire(timeout_s=0)
    except RunBusy:
        return True
    except OSError:  # nobody can train where not even this can be opened
        return False
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
