"""Trainings one after another, each in its child process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.runs.events import ENDINGS, EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.worker import Worker

log = logging.getLogger("lib_ti")
LOOK_EVERY_S = 0.2
PATIENCE_S = 120.0  # a process whose input has ended takes no longer to end itself
STOPPED = 130
MEMORY_SIGNAL = -9  # what Linux ends a process with that takes more memory than there is


@dataclass
class Job:
    """A training that waits or runs. `child` is there when it runs, and before where it is warm already."""

    folder: RunFolder
    sharing: bool = False  # the host goes on generating meanwhile
    changes: Mapping[str, Any] = field(default_factory=dict)
    child: Worker | None = None
    started: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        return self.stopping.is_set()


Around = Callable[[Job], AbstractContextManager[Callable[[], bool] | None]]
"""What surrounds the training of a job: the host's lock, its model out of the way. It gives a function that says whether
the host wants the training stopped, or None where waiting for the host was cancelled."""


class RunQueue:
    """Takes jobs and works through them in a thread of its own."""

    def __init__(self, around: Around, ended: Callable[[Job], None] = lambda job: None) -> None:
        """`ended` is called after each job that has begun, however it ended."""
        self._around, self._ended = around, ended
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Put a job at the end. Only the first keeps a warm child: each holds some hundred MB."""
        with self._changed:
            if self._closed:
                raise TextualInversionError("the WebUI is closing")
            if self._jobs and job.child:
                job.child.close()
                job.child = None
            # first: where it cannot be recorded, there is no job
            EventLog(job.folder.events).append("queued", place=len(self._jobs))
            self._jobs.append(job)
            self._changed.notify_all()
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="textual-inversion-queue", daemon=True)
                self._worker.start()

    def jobs(self) -> list[Job]:
        """The one that runs or is next, and those behind it."""
        with self._changed:
            return list(self._jobs)

    def find(self, path: Path) -> Job | None:
        """The job of a run folder."""
        return next((job for job in self.jobs() if job.folder.path == path), None)

    def stop(self, path: Path) -> bool:
        """Stop a run, or take it out of the queue. False if it is not in it."""
        job = self.find(path)
        if job is None:
            return False
        with self._changed:
            job.stopping.set()
            if job.child:
                job.child.stop()
            if job in self._jobs[1:]:
                self._jobs.remove(job)
                _record(job.folder, "stopped", step=_saved_step(job.folder))
                self._tell_places()
        return True

    def close(self, patience_s: float = 20.0) -> None:
        """Stop everything; waits for the running training to save."""
        with self._changed:
            self._closed = True
        for job in reversed(self.jobs()):
            self.stop(job.folder.path)
        if worker := self._worker:
            worker.join(patience_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._worker = None
                    return
                job = self._jobs[0]
            try:
                self._carry_out(job)
            except Exception as error:
                log.exception("a training could not be carried out")
                if not _has_ended(job.folder):  # the host's trouble afterwards does not undo the training
                    _record(job.folder, "failed", message=f"{type(error).__name__}: {error}")
            finally:
                if job.child:
                    job.child.close()
                with self._changed:
                    self._jobs.remove(job)
                    self._tell_places()

    def _carry_out(self, job: Job) -> None:
        with self._around(job) as unwanted:
            if unwanted is None or job.cancelled:
                if job.child:
                    job.child.close()
                _record(job.folder, "stopped", step=_saved_step(job.folder))
                return
            try:
                self._train(job, unwanted)
            finally:
                self._ended(job)

    def _train(self, job: Job, unwanted: Callable[[], bool]) -> None:
        try:
            child = job.child or Worker({"run": str(job.folder.path), "changes": dict(job.changes)})
            with self._changed:
                job.child, job.started = child, True
            child.answer()
        except TextualInversionError as error:
            _record(job.folder, "failed", message=str(error))
            return
        child.go()
        try:
            while child.running:
                if unwanted() and not job.cancelled:
                    job.stopping.set()
                if job.cancelled:
                    child.stop()
                child.exit_code(LOOK_EVERY_S)
        finally:
            child.close()
            child.exit_code(PATIENCE_S)  # nobody else may have the device before
        _explain(job, child.exit_code(), child.last_words())

    def _tell_places(self) -> None:
        for place, job in enumerate(self._jobs):
            if place and not job.started:
                _record(job.folder, "queued", place=place)


def _has_ended(folder: RunFolder) -> bool:
    try:
        last = folder.timeline().last
    except OSError:
        return False
    return last is not None and last.kind in ENDINGS


def _explain(job: Job, code: int | None, last_words: str) -> None:
    """Where a child ended without a word, say so for it."""
    if _has_ended(job.folder):
        return
    if job.cancelled and code == STOPPED:  # before it had begun
        _record(job.folder, "stopped", step=_saved_step(job.folder))
        return
    if code == MEMORY_SIGNAL:
        reason = "the system ended the training process, most often for want of memory"
    else:
        reason = f"the training process ended unexpectedly ({last_words or f'exit code {code}'})"
    _record(job.folder, "failed", message=f"{reason}; what was learned up to the last save is kept, so resume it")


def _record(folder: RunFolder, kind: str, **data: Any) -> None:
    try:
        EventLog(folder.events).append(kind, **data)
    except OSError:  # the folder was deleted, or the disk is full: there is nobody to tell but the log
        log.exception("%s of %s could not be recorded", kind, folder.path)


def _saved_step(folder: RunFolder) -> int:
    try:
        return folder.saved_step
    except TextualInversionError:
        return 0
