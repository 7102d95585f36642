"""The queue on disk, so that it survives the end of the program that holds it.

Each program that queues runs in a folder has a file of its own in `.queue`, and holds a lock as long as it lives. A program that
starts takes over the files that nobody holds any more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib_ti import files
from lib_ti.errors import RunBusy
from lib_ti.runs.lock import RunLock

log = logging.getLogger("lib_ti")
FOLDER = ".queue"
MAX_PROGRAMS = 50


@dataclass(frozen=True)
class Entry:
    """A queued run: its folder relative to the folder of all runs. `started`: it was being trained."""

    run: str
    keep_generating: bool = False
    started: bool = False


class QueueRecord:
    """The file of this program."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir.absolute()
        self._path: Path | None = None
        self._lock: RunLock | None = None

    def store(self, entries: Sequence[Entry]) -> None:
        """Write the queue as it is now; without runs there is no file. Runs are trained even if this cannot be written."""
        try:
            if not entries:
                if self._path:
                    self._path.unlink(missing_ok=True)
            elif path := self._own_path():
                files.atomic_write_bytes(path, json.dumps([asdict(entry) for entry in entries]).encode(), durable=True)
        except OSError:
            log.exception("the queue cannot be recorded")

    def take_over(self) -> list[Entry]:
        """The runs, in order, that programs which have ended have left waiting; each is given out once.

        Not those that were being trained when their program was killed: it may have been for their sake.
        """
        found: list[Entry] = []
        for number in range(MAX_PROGRAMS):
            path, lock = self._slot(number)
            if path == self._path or not path.exists():
                continue
            try:
                lock.acquire(timeout_s=0)
            except (RunBusy, OSError):
                continue  # its program lives
            found += [entry for entry in _read(path) if not entry.started]
            path.unlink(missing_ok=True)
            lock.release()
        return found

    def entry(self, run: Path, keep_generating: bool, started: bool) -> Entry | None:
        """The entry of a run; None if it lies elsewhere."""
        if self._runs_dir not in run.parents:
            return None
        return Entry(run.relative_to(self._runs_dir).as_posix(), keep_generating, started)

    def folder(self, entry: Entry) -> Path:
        """The run folder of an entry."""
        return self._runs_dir / entry.run

    def release(self) -> None:
        """Let another program take the file over."""
        if self._lock:
            self._lock.release()
        self._path = self._lock = None

    def _own_path(self) -> Path | None:
        if self._path is None:
            (self._runs_dir / FOLDER).mkdir(parents=True, exist_ok=True)
            for number in range(MAX_PROGRAMS):
                path, lock = self._slot(number)
                if path.exists():  # somebody has left runs in it
                    continue
                try:
                    lock.acquire(timeout_s=0)
                except RunBusy:
                    continue
                self._path, self._lock = path, lock
                break
        return self._path

    def _slot(self, number: int) -> tuple[Path, RunLock]:
        folder = self._runs_dir / FOLDER
        return folder / f"{number}.json", RunLock(folder / f"{number}.lock")


def _read(path: Path) -> Iterator[Entry]:
    try:
        for record in json.loads(path.read_text(encoding="utf-8")):
            entry = Entry(str(record["run"]), bool(record["keep_generating"]), bool(record["started"]))
            parts = Path(entry.run).parts
            if len(parts) == 2 and not any(part.startswith(".") for part in parts):
                yield entry
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        log.exception("a queue of an earlier program cannot be read")
