"""The host's part in a training: its lock, its model out of the way, and word of what changed."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib_ti import files
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job
from lib_ti.webui.hosts.host import Host, holding

log = logging.getLogger("lib_ti")


class GpuHandover:
    """Stands around each training of a queue."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._borrower: Job | None = None

    @property
    def borrower(self) -> Job | None:
        """The training for which the host's lock is held: nothing can be generated meanwhile."""
        return self._borrower

    @contextmanager
    def around(self, job: Job) -> Iterator[Callable[[], bool] | None]:
        """What `runs.queue.Around` asks for."""
        name = job.folder.path.parent.name
        if job.sharing:
            trial = Trial(job.folder, self._host, self.tell)
            try:
                yield trial.look
            finally:
                trial.end()
                self.tell([name])
            return
        with holding(self._host.lock, lambda: job.cancelled) as held:
            if not held:
                yield None
                return
            self._borrower = job
            try:
                with self._host.lent(name) as interrupted:
                    yield interrupted
            finally:
                self._borrower = None
                self._reload([name])

    def tell(self, names: Sequence[str]) -> None:
        """Let the host read its embeddings again as soon as it generates nothing; returns at once."""

        def work() -> None:
            with holding(self._host.lock, lambda: False):
                self._reload(names)

        threading.Thread(target=work, name="textual-inversion-reload", daemon=True).start()

    def _reload(self, names: Sequence[str]) -> None:
        try:
            self._host.embeddings_changed(names)
        except Exception:  # the training is done and its file in place, whatever the host says
            log.exception("%s did not take notice of the new embedding; it will after a restart", self._host.title)


class Trial:
    """The newest snapshot of a running training as an embedding called NAME-preview, to be tried in txt2img meanwhile."""

    MARK = "trial.json"  # in the run folder: what to clean up after a kill

    def __init__(self, folder: RunFolder, host: Host, tell: Callable[[Sequence[str]], None]) -> None:
        self._folder, self._tell = folder, tell
        self._name = f"{folder.path.parent.name}-preview"
        self._target = host.embeddings / f"{self._name}.safetensors"
        self._free = not self._target.exists()
        self._shown = -1

    def look(self) -> bool:
        """Put the newest snapshot in place, if there is a newer one. Never asks for a stop."""
        if self._free and (newest := _newest_snapshot(self._folder)) > self._shown:
            try:
                files.atomic_write_bytes(self._folder.path / self.MARK, json.dumps(str(self._target)).encode())
                files.atomic_write_bytes(self._target, self._folder.snapshot(newest).read_bytes())
            except OSError:
                log.exception("the snapshot of step %d cannot be tried", newest)
                self._free = False
            else:
                self._shown = newest
                self._tell([self._name])
        return False

    def end(self) -> None:
        if clean_trial(self._folder):
            self._tell([self._name])


def clean_trial(folder: RunFolder) -> bool:
    """Remove a trial's embedding. True if there was one."""
    mark = folder.path / Trial.MARK
    try:
        target = Path(json.loads(mark.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    if target.name == f"{folder.path.parent.name}-preview.safetensors":
        target.unlink(missing_ok=True)
    mark.unlink(missing_ok=True)
    return True


def clean_trials(runs: Path) -> None:
    """Remove what trainings left behind that were killed together with their host."""
    for mark in runs.glob(f"*/*/{Trial.MARK}"):
        folder = RunFolder(mark.parent)
        if not folder.running:
            clean_trial(folder)


def tidy(folder: RunFolder, host: Host) -> None:
    """What the settings say shall not be kept of a finished run."""
    last = folder.timeline().last
    if last is None or last.kind != "finished":
        return
    if not host.keeps_pictures:
        shutil.rmtree(folder.images, ignore_errors=True)
        folder.latents.unlink(missing_ok=True)
    if not host.keeps_snapshots:
        shutil.rmtree(folder.path / "snapshots", ignore_errors=True)


def _newest_snapshot(folder: RunFolder) -> int:
    steps = (path.stem for path in (folder.path / "snapshots").glob("*.safetensors"))
    return max((int(step) for step in steps if step.isdecimal()), default=-1)
