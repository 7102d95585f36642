"""What a process has freed, and its C library keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AT_A_TIME = 1 << 28  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt(3)
ADAPTED = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26}
"""What glibc comes to by itself where large tensors come and go."""


def _function(name: str) -> Callable[..., Any]:
    """That of the GNU C library; elsewhere one that does nothing."""
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # on Windows there is no None
        return lambda *_: None
    return found


_malloc_trim, _mallopt = _function("malloc_trim"), _function("mallopt")


def trim() -> None:
    """Give it back to the system, in a millisecond or two. glibc keeps what lies below memory in use: of a model, a gigabyte."""
    _malloc_trim(0)


@contextmanager
def keeping() -> Iterator[None]:
    """Within, what is freed is kept for what comes next. Of many MB, it would go back and have to be made anew each time."""
    _mallopt(MMAP_MAX, 0)
    _mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        for option, value in ADAPTED.items():
            _mallopt(option, value)
        trim()


class TrimAfter:
    """Gives back what is freed on the way through many tensors, some at a time."""

    def __init__(self) -> None:
        self._freed = 0

    def freed(self, size: int) -> None:
        """So many bytes more are free."""
        self._freed += size
        if self._freed >= AT_A_TIME:
            trim()
            self._freed = 0
