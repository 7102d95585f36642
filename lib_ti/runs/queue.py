"""Trains one run after another, each in its own worker process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.runs.events import TERMINAL_KINDS, EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue_record import QueueRecord
from lib_ti.runs.worker import Worker

log = logging.getLogger("lib_ti")
POLL_INTERVAL_S = 0.2
EXIT_TIMEOUT_S = 120.0  # longer than a worker takes to exit once its standard input is closed
EXIT_STOPPED = 130  # the exit code of a worker that was stopped before it trained
EXIT_OOM_KILLED = -9  # SIGKILL, which Linux's out-of-memory killer sends


@dataclass
class Job:
    """A queued or running training. `worker` exists once it runs, or earlier if it was started for the checks."""

    folder: RunFolder
    keep_generating: bool = False  # the host keeps its model on the GPU and its lock free
    worker: Worker | None = None
    started: bool = False
    stop_event: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        return self.stop_event.is_set()


GpuContext = Callable[[Job], AbstractContextManager[Callable[[], bool] | None]]
"""Gives a context that owns the GPU while a job trains: the host's lock is held and its model offloaded.

The context's value is a function that says whether the host wants the training stopped, or None if the job was cancelled while
it waited for the host.
"""


class RunQueue:
    """Trains jobs in order, in a thread of its own."""

    def __init__(
        self,
        gpu_context: GpuContext,
        on_job_end: Callable[[Job], None] = lambda job: None,
        record: QueueRecord | None = None,
    ) -> None:
        """`on_job_end` is called after each job that was started, however it ended. `record`: keeps the queue on disk."""
        self._gpu_context, self._on_job_end, self._record = gpu_context, on_job_end, record
        self._jobs: list[Job] = []
        self._lock = threading.RLock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Append a job. Only the first keeps a worker that is started already: each takes some hundred MB."""
        with self._lock:
            if self._closed:
                raise TextualInversionError("the WebUI is closing")
            if self._jobs and job.worker:
                job.worker.close()
                job.worker = None
            # first, so that a job whose event cannot be written is not queued
            EventLog(job.folder.events).append("queued", place=len(self._jobs))
            self._jobs.append(job)
            self._store()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run_jobs, name="textual-inversion-queue", daemon=True)
                self._thread.start()

    def restore(self) -> None:
        """Queue again what a program that has ended has left waiting in the record."""
        for entry in self._record.take_over() if self._record else ():
            folder = RunFolder(self._record.folder(entry)) if self._record else None
            if folder and (folder.path / "settings.json").is_file() and not (self.find(folder.path) or folder.running):
                try:
                    self.add(Job(folder, entry.keep_generating))
                except OSError:
                    log.exception("%s cannot be queued again", folder.path)

    def _store(self, closing: bool = False) -> None:
        """Record the queue; once it is closed the record stays as it was, for the next program."""
        if self._record and (closing or not self._closed):
            entries = (
                self._record.entry(job.folder.path, job.keep_generating, job.started and not closing)
                for job in self._jobs
            )
            self._record.store([entry for entry in entries if entry])

    def jobs(self) -> list[Job]:
        """The job that runs or is next, then those behind it."""
        with self._lock:
            return list(self._jobs)

    def find(self, path: Path) -> Job | None:
        """The job of the run folder at `path`."""
        return next((job for job in self.jobs() if job.folder.path == path), None)

    def stop(self, path: Path) -> bool:
        """Stop a run, or remove it from the queue. False if it is not queued."""
        job = self.find(path)
        if job is None:
            return False
        with self._lock:
            job.stop_event.set()
            if job.worker:
                job.worker.stop()
            if job in self._jobs[1:]:
                self._jobs.remove(job)
                _record(job.folder, "stopped", step=_saved_step(job.folder))
                self._record_queue_positions()
        return True

    def move(self, path: Path, place: int) -> bool:
        """Give a waiting run another place, counted from 1 after the job that runs or is next. False if it does not wait."""
        with self._lock:
            job = self.find(path)
            if job is None or job not in self._jobs[1:]:
                return False
            self._jobs.remove(job)
            self._jobs.insert(max(1, min(place, len(self._jobs))), job)
            self._record_queue_positions()
        return True

    def close(self, timeout_s: float = 20.0) -> None:
        """Stop everything, and wait for the running training to save."""
        with self._lock:
            if not self._closed:
                self._store(closing=True)
            self._closed = True
        for job in reversed(self.jobs()):
            self.stop(job.folder.path)
        if thread := self._thread:
            thread.join(timeout_s)
        if self._record:
            self._record.release()

    def _run_jobs(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs[0]
            try:
                self._run_job(job)
            except Exception as error:
                log.exception("a training could not be carried out")
                if not _has_ended(job.folder):  # a later failure of the host does not undo the training
                    _record(job.folder, "failed", message=f"{type(error).__name__}: {error}")
            finally:
                if job.worker:
                    job.worker.close()
                with self._lock:
                    self._jobs.remove(job)
                    self._record_queue_positions()

    def _run_job(self, job: Job) -> None:
        with self._gpu_context(job) as stop_requested:
            if stop_requested is None or job.cancelled:
                if job.worker:
                    job.worker.close()
                _record(job.folder, "stopped", step=_saved_step(job.folder))
                return
            try:
                self._train(job, stop_requested)
            finally:
                self._on_job_end(job)

    def _train(self, job: Job, stop_requested: Callable[[], bool]) -> None:
        try:
            worker = job.worker or Worker({"run": str(job.folder.path)})
            with self._lock:
                job.worker, job.started = worker, True
                self._store()
            worker.reply()
        except TextualInversionError as error:
            if job.folder.running:  # another program trains it, and its log is not ours to write
                log.warning("%s", error)
            else:
                _record(job.folder, "failed", message=str(error))
            return
        worker.start_training()
        try:
            while worker.running:
                if stop_requested() and not job.cancelled:
                    job.stop_event.set()
                if job.cancelled:
                    worker.stop()
                worker.exit_code(POLL_INTERVAL_S)
        finally:
            worker.close()
            worker.exit_code(EXIT_TIMEOUT_S)  # nobody else may use the GPU before
        _record_unreported_exit(job, worker.exit_code(), worker.last_stderr_line())

    def _record_queue_positions(self) -> None:
        self._store()
        for position, job in enumerate(self._jobs):
            if position and not job.started:
                _record(job.folder, "queued", place=position)


def _has_ended(folder: RunFolder) -> bool:
    try:
        last = folder.history().last
    except OSError:
        return False
    return last is not None and last.kind in TERMINAL_KINDS


def _record_unreported_exit(job: Job, exit_code: int | None, last_stderr_line: str) -> None:
    """Record the end of a run whose worker exited without recording it."""
    if _has_ended(job.folder) or job.folder.running:  # ended, or another program trains it
        return
    if job.cancelled and exit_code == EXIT_STOPPED:  # before it trained
        _record(job.folder, "stopped", step=_saved_step(job.folder))
        return
    if exit_code == EXIT_OOM_KILLED:
        reason = "the system ended the training process, most often for want of memory"
    else:
        reason = f"the training process ended unexpectedly ({last_stderr_line or f'exit code {exit_code}'})"
    _record(job.folder, "failed", message=f"{reason}; what was learned up to the last save is kept, so resume it")


def _record(folder: RunFolder, kind: str, **data: Any) -> None:
    try:
        EventLog(folder.events).append(kind, **data)
    except OSError:  # the folder was deleted, or the disk is full
        log.exception("%s of %s could not be recorded", kind, folder.path)


def _saved_step(folder: RunFolder) -> int:
    try:
        return folder.saved_step
    except TextualInversionError:
        return 0
