"""What a process has freed, and its C library keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

AT_A_TIME = 1 << 28  # bytes


def _trimmer() -> Callable[[], Any]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not the GNU C library; on Windows there is no None
        return lambda: None
    return lambda: trim(0)


trim = _trimmer()
"""Give it back to the system, in a millisecond or two. glibc keeps what lies below memory in use: of a model, a gigabyte."""


class Sweep:
    """Gives back what is freed on the way through many tensors, some at a time."""

    def __init__(self) -> None:
        self._freed = 0

    def freed(self, size: int) -> None:
        """So many bytes more are free."""
        self._freed += size
        if self._freed >= AT_A_TIME:
            trim()
            self._freed = 0
