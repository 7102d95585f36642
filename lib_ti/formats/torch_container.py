"""PyTorch's two containers, checked before torch opens them: a zip archive, and a sequence of pickles followed by data."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.pickle_scan import PickleScanner

AMBIGUOUS = "damaged, or not a PyTorch file (where its contents end is not clear)"
_PICKLES_IN_SEQUENCE = 5  # a magic number, a version, the system, the object, the keys of its storages; then data
_MAX_PICKLE_BYTES = 256 << 20  # of an archive's .pkl, which is read whole; a checkpoint's takes a few million
_MAX_INFLATED_BYTES = 64 << 20  # of a compressed archive's entries together; torch itself never compresses


def scan_sequence(path: Path, size: int) -> None:
    """Scan the pickles that PyTorch's old container begins with. Raises UnreasonablePickle; ValueError for damage."""
    scanner = PickleScanner()
    with path.open("rb") as file:
        for _ in range(_PICKLES_IN_SEQUENCE):
            if file.tell() >= size:
                return
            scanner.scan(file, size)


def check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive. Raises UnusableFile for one that would take far too much memory.

    torch's reader believes whatever sizes an archive states, so it must see the same entries as Python's `zipfile` does here:
    the end of the archive must be the end of the file, without a comment that hides another one.
    """
    with path.open("rb") as file:
        file.seek(-22, 2)
        end_record = file.read()
    if end_record[:4] != b"PK\5\6" or end_record[-2:] != bytes(2):
        raise UnusableFile(path, AMBIGUOUS)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    size = sum(entry.file_size for entry in entries)
    pickle_size = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
    if pickle_size > _MAX_PICKLE_BYTES or size > (path.stat().st_size if stored else _MAX_INFLATED_BYTES):
        raise UnusableFile(
            path, f"unpacked it would take {size >> 20} MB, far more than such a file does; it was not opened"
        )
    return entries


def scan_archive(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Scan an archive's pickles. Raises UnreasonablePickle; ValueError for damage."""
    scanner = PickleScanner()
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                scanner.scan(io.BytesIO(archive.read(entry)), entry.file_size)
