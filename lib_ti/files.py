"""Files that are either whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.text import is_encodable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; when the block ends well it takes the place of `path`, else it is removed.

    The temporary name has a suffix that no WebUI takes for an embedding or a picture, should it scan the folder meanwhile.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def first_bytes(path: Path, count: int = 16) -> bytes:
    """What a file begins with.

    Raises UnusableFile for what is no ordinary file (to read a pipe could take for ever), what no library can open, and what
    is empty.
    """
    if path.is_dir():
        raise UnusableFile(path, "this is a folder; name a file in it")
    if not path.exists():
        raise UnusableFile(path, "there is no such file")
    if not path.is_file():
        raise UnusableFile(path, "this is a device or a pipe, and no file")
    if not is_encodable(str(path)):
        raise UnusableFile(path, "its name, or that of its folder, is not valid Unicode; rename it")
    try:
        with path.open("rb") as file:
            start = file.read(count)
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror})") from error
    if not start:
        raise UnusableFile(path, "the file is empty")
    return start
