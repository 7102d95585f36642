"""Files are whole or not there, whatever happens while they are written."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_ti import files


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_appears(tmp_path):
    files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with files.atomic_write(target) as part:
        part.write_bytes(b"ne")
        assert target.read_bytes() == b"old"
        assert part.parent == target.parent, "elsewhere it might be on another disk, and a rename a copy"
        assert part.suffix == ".part", "a WebUI that scans the folder passes it over"
        part.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def write_half(target, error):
    with files.atomic_write(target) as part:
        part.write_bytes(b"ne")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_leaves_everything_as_it_was(tmp_path, old, error):
    target = tmp_path / "a.bin"
    if old is not None:
        target.write_bytes(old)
    with pytest.raises(type(error)):
        write_half(target, error)
    assert (target.read_bytes() if target.exists() else None) == old
    assert names(tmp_path) == ([] if old is None else ["a.bin"])


def test_a_writer_that_wrote_nothing_has_failed(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_place_that_cannot_be_taken(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert names(tmp_path) == ["a.bin"]


def test_readers_never_see_half(tmp_path):
    target, size, rounds = tmp_path / "a.bin", 1 << 16, 100
    target.write_bytes(b"0" * size)

    def write():
        for i in range(rounds):
            files.atomic_write_bytes(target, b"%d" % (i % 10) * size)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        seen = target.read_bytes()
        assert len(seen) == size
        assert len(set(seen)) == 1
    writer.join()


class Held:
    """`os.replace` on Windows while a reader holds the target open: refused so many times."""

    def __init__(self, refusals):
        self.refusals = refusals

    def __call__(self, source, target):
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(13, "Access is denied")
        Path(source).replace(target)


def pretend(monkeypatch, name, replace):
    monkeypatch.setattr(files, "os", SimpleNamespace(name=name, replace=replace, getpid=os.getpid))


def test_windows_is_asked_again_while_a_reader_holds_the_file(monkeypatch, tmp_path):
    pretend(monkeypatch, "nt", Held(2))
    files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_windows_is_not_asked_for_ever(monkeypatch, tmp_path):
    pretend(monkeypatch, "nt", Held(10**9))
    moments = iter(range(1000))
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda s: None))
    with pytest.raises(PermissionError):
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert names(tmp_path) == []


def test_elsewhere_a_refusal_is_final(monkeypatch, tmp_path):
    pretend(monkeypatch, "posix", Held(1))
    with pytest.raises(PermissionError):
        files.atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert names(tmp_path) == []
