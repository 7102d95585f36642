"""Control what the GNU C library does with freed memory. Elsewhere these functions do nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRIM_EVERY = 1 << 28  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt(3)
RESTORED = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26}
"""The values that glibc's dynamic thresholds reach by themselves in a process that allocates and frees large tensors."""


def _glibc_function(name: str) -> Callable[..., Any]:
    """The C library's function, or one that does nothing if there is none."""
    try:
        function: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows does not take None
        return lambda *_: None
    return function


_malloc_trim, _mallopt = _glibc_function("malloc_trim"), _glibc_function("mallopt")


def trim() -> None:
    """Return freed memory to the system, in a millisecond or two.

    glibc keeps free memory below blocks in use: a gigabyte after a model was loaded.
    """
    _malloc_trim(0)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within the context, keep freed memory for the next allocation.

    Large blocks would be returned to the system each time, and their pages cleared again at the next allocation.
    """
    _mallopt(MMAP_MAX, 0)
    _mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        for option, value in RESTORED.items():
            _mallopt(option, value)
        trim()


class TrimAfter:
    """Calls `trim` whenever `TRIM_EVERY` bytes have been freed, for work that replaces many tensors."""

    def __init__(self) -> None:
        self._freed = 0

    def freed(self, size: int) -> None:
        """Report that `size` more bytes are free."""
        self._freed += size
        if self._freed >= TRIM_EVERY:
            trim()
            self._freed = 0
