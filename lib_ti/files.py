"""Write files atomically, so that readers see the old file or the new one and never a part of it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.text import is_encodable

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""What file systems answer that cannot sync; they are as durable as they are."""


@contextmanager
def atomic_write(path: Path, durable: bool = False, staging: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success it replaces `path`, on an error it is deleted.

    The temporary name ends in .part, so that a WebUI that scans the folder takes it for neither an embedding nor an image.
    `durable`: after a power cut `path` is the old file or the whole new one, and the new one once this has returned.
    `staging`: a folder for the temporary file, if it is on the same disk; else that of `path` has it. An OSError names a path.
    """
    folder = staging if staging and _same_disk(staging, path.parent) else path.parent
    temporary = folder / f".{path.name}.{os.getpid()}.part"
    try:
        with naming(path):
            yield temporary
            if durable:
                sync_file(temporary)
            _replace(temporary, path)
            if durable:
                sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes, durable: bool = False) -> None:
    """Write `data` to `path` atomically; `durable` as in `atomic_write`."""
    with atomic_write(path, durable) as temporary:
        temporary.write_bytes(data)


def keep_copy(source: Path, copy: Path) -> None:
    """Make `copy` what `source` is now, atomically; without writing its content again where the file system has links."""
    with atomic_write(copy) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except (OSError, NotImplementedError, AttributeError):
            shutil.copyfile(source, temporary)
            sync_file(temporary)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError the path that it is about, if it has none: those of a write to an open file do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sync_file(path: Path) -> None:
    """Return once the content of a file is on the disk."""
    with path.open("r+b") as file:
        _sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return once the names in a folder are on the disk; on Windows they are as soon as the system decides."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return once all files in a folder, their names and those of its subfolders are on the disk."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_tree(path)
        else:
            sync_file(path)
    sync_folder(folder)


def remove_stale_parts(folder: Path, name: str = "*") -> None:
    """Delete temporary files of `atomic_write` that a killed process has left; nobody else may be writing those just now.

    `name`: a glob pattern of the files that were to be written.
    """
    for path in folder.glob(f".{name}.*.part"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _same_disk(first: Path, second: Path) -> bool:
    try:
        return first.stat().st_dev == second.stat().st_dev
    except OSError:
        return False


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
        except OSError as error:
            if error.errno != errno.EXDEV or source.parent == target.parent:
                raise
            with atomic_write(target, durable=True) as temporary:  # one disk, but mounted twice
                shutil.copyfile(source, temporary)
            return


def read_header(path: Path, count: int = 16) -> bytes:
    """Read the first `count` bytes of a file.

    Raises:
        UnusableFile: it is not a regular file, its path is not valid Unicode (which libraries cannot open), it cannot be read,
            or it is empty.
    """
    if path.is_file() and not is_encodable(str(path)):
        raise UnusableFile(path, "its name, or that of its folder, is not valid Unicode; rename it")
    header = read_beginning(path, count)
    if not header:
        raise UnusableFile(path, "the file is empty")
    return header


def read_beginning(path: Path, count: int) -> bytes:
    """Read up to `count` bytes of a regular file; reading a pipe could block forever. Raises UnusableFile."""
    if path.is_dir():
        raise UnusableFile(path, "this is a folder; name a file in it")
    if not path.exists():
        raise UnusableFile(path, missing_reason(path))
    if not path.is_file():
        raise UnusableFile(path, "this is a device or a pipe, and no file")
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror})") from error


def missing_reason(path: Path) -> str:
    """Why there is no file at `path`: where it is a link, what that leads to."""
    if not path.is_symlink():
        return "there is no such file"
    target = os.readlink(path)  # noqa: PTH115 - as it is written, unresolved
    if "annex/objects" in target.replace(os.sep, "/"):
        return "its content is not on this computer (git-annex); fetch it with: git annex get"
    return f"a broken link; there is no {target}"
