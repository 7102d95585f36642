"""Write files atomically, so that readers see the old file or the new one and never a part of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.text import is_encodable


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on an error it is deleted.

    The temporary name ends in .part, so that a WebUI that scans the folder takes it for neither an embedding nor an image.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _replace(source: Path, target: Path, timeout_s: float = 2.0) -> None:
    """`os.replace`, retried where Windows refuses because a reader has the target open."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def read_header(path: Path, count: int = 16, empty: bool = False) -> bytes:
    """Read the first `count` bytes of a file; `empty`: whether it may have none.

    Raises:
        UnusableFile: it is not a regular file (reading a pipe could block forever), its path is not valid Unicode (which
            libraries cannot open), it cannot be read, or it is empty.
    """
    if path.is_dir():
        raise UnusableFile(path, "this is a folder; name a file in it")
    if not path.exists():
        raise UnusableFile(path, missing_reason(path))
    if not path.is_file():
        raise UnusableFile(path, "this is a device or a pipe, and no file")
    if not is_encodable(str(path)):
        raise UnusableFile(path, "its name, or that of its folder, is not valid Unicode; rename it")
    try:
        with path.open("rb") as file:
            header = file.read(count)
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror})") from error
    if not (header or empty):
        raise UnusableFile(path, "the file is empty")
    return header


def missing_reason(path: Path) -> str:
    """Why there is no file at `path`: where it is a link, what that leads to."""
    if not path.is_symlink():
        return "there is no such file"
    target = os.readlink(path)  # noqa: PTH115 - as it is written, unresolved
    if "annex/objects" in target.replace(os.sep, "/"):
        return "its content is not on this computer (git-annex); fetch it with: git annex get"
    return f"a broken link; there is no {target}"
