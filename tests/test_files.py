"""Atomic writes: readers see the old file or the new one, whatever happens meanwhile."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_ti import files


def file_names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_new_file_is_written(tmp_path):
    files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert file_names(tmp_path) == ["a.bin"]


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with files.atomic_write(target) as temporary:
        temporary.write_bytes(b"ne")
        assert target.read_bytes() == b"old"
        assert temporary.parent == target.parent, "elsewhere it might be on another disk, and a rename a copy"
        assert temporary.suffix == ".part", "a WebUI that scans the folder passes it over"
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert file_names(tmp_path) == ["a.png"]


def write_partially(target, error):
    with files.atomic_write(target) as temporary:
        temporary.write_bytes(b"ne")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [b"old", None])
def test_failed_write_changes_nothing(tmp_path, old, error):
    target = tmp_path / "a.bin"
    if old is not None:
        target.write_bytes(old)
    with pytest.raises(type(error)):
        write_partially(target, error)
    assert (target.read_bytes() if target.exists() else None) == old
    assert file_names(tmp_path) == ([] if old is None else ["a.bin"])


def test_writing_nothing_fails(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_write_to_unwritable_path_fails(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert file_names(tmp_path) == ["a.bin"]


def test_readers_never_see_partial_content(tmp_path):
    target, size, rounds = tmp_path / "a.bin", 1 << 16, 100
    target.write_bytes(b"0" * size)

    def write():
        for i in range(rounds):
            files.atomic_write_bytes(target, b"%d" % (i % 10) * size)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        content = target.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1
    writer.join()


class RefusingReplace:
    """`os.replace` on Windows while a reader has the target open: fails `refusals` times."""

    def __init__(self, refusals):
        self.refusals = refusals

    def __call__(self, source, target):
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(13, "Access is denied")
        Path(source).replace(target)


def fake_os(monkeypatch, name, replace):
    monkeypatch.setattr(files, "os", SimpleNamespace(name=name, replace=replace, getpid=os.getpid))


def test_replace_is_retried_on_windows(monkeypatch, tmp_path):
    fake_os(monkeypatch, "nt", RefusingReplace(2))
    files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_retries_on_windows_are_limited(monkeypatch, tmp_path):
    fake_os(monkeypatch, "nt", RefusingReplace(10**9))
    clock = iter(range(1000))
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda s: None))
    with pytest.raises(PermissionError):
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert file_names(tmp_path) == []


def test_replace_is_not_retried_on_posix(monkeypatch, tmp_path):
    fake_os(monkeypatch, "posix", RefusingReplace(1))
    with pytest.raises(PermissionError):
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert file_names(tmp_path) == []
