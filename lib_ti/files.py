"""Files that are either whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; when the block ends well it takes the place of `path`, else it is removed.

    The temporary name keeps the suffix, as writers choose their format by it, and starts with a dot, so that a
    WebUI that scans the folder meanwhile takes it for nothing.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        _replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step."""
    with replacing(path) as part:
        part.write_bytes(data)


def _replace(source: Path, target: Path, patience_s: float = 2.0) -> None:
    """`os.replace`, again for a while where Windows refuses because a reader has the target open."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
