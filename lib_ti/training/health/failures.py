"""What to tell the user about an error that nobody has written a sentence for."""

from __future__ import annotations

import errno
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_KEPT = "all up to the last save is kept"
_DEVICE_ERRORS = ("cuda error", "cudnn", "cublas", "cufft", "hip error", "device-side assert", "nccl", "mps backend")


def describe_unexpected(error: Exception, folder: Path, log: Path) -> str:
    """A sentence that says what has failed and what to do about it. `folder`: of the run; `log`: where the traceback is."""
    lines = str(error).strip().splitlines()
    first_line = lines[0] if lines else "no reason given"
    if isinstance(error, OSError) and error.errno in _FULL | _READ_ONLY:
        place = Path(error.filename) if isinstance(error.filename, str) else folder
        place = place if place.is_dir() else place.parent
        if error.errno in _FULL:
            return f"the disk of {place} is full; make room there, then resume the run: {_KEPT}"
        return f"{place} cannot be written to ({error.strerror}); change that, then resume the run: {_KEPT}"
    if isinstance(error, RuntimeError) and any(name in str(error).lower() for name in _DEVICE_ERRORS):
        return (
            f"the device reported an error ({first_line}); resume the run: {_KEPT}. If it happens again, restart the "
            f"computer or update the driver (details in {log})"
        )
    return f"{type(error).__name__}: {first_line} (details in {log})"
