"""Runs as the page shows them: the followed run with its new events, and the list of all runs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib_ti.data.captions import usage
from lib_ti.errors import TextualInversionError
from lib_ti.runs.events import TERMINAL_KINDS, Event, RunHistory, read_events
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.listing import RunListing
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.api.event_tail import EventTail, EventTails, thin_out_steps
from lib_ti.webui.forms.form_to_settings import flags_to_labels
from lib_ti.webui.images.thumbnails import ThumbnailCache

log = logging.getLogger("lib_ti")
CHUNK_BYTES = 1 << 17  # of events in one reply, so that it stays fast
MAX_LOG_CHARS = 4000
PAGE, MAX_PAGE = 30, 1000  # rows of the list in one reply, and the most that can be asked for
FOLDER_CACHE_S = 2.0  # how long a listing of the runs folder is reused
INTERRUPTED = (
    "This was cut off: the WebUI or the computer ended, or the disk was full. All up to the last save is there."
)

_RUNNING_STATES = {
    "loading": "loading", "encoding": "encoding", "searching": "encoding", "saving": "saving", "finished": "saving",
}  # fmt: skip
"""The state of a running run by its last event; "training" for any other. A worker that has written the embedding counts as
saving until the queue has seen it exit."""


class RunsView:
    """Answers about the runs in a folder."""

    def __init__(self, runs_dir: Callable[[], Path], queue: RunQueue, thumbnails: ThumbnailCache) -> None:
        self._runs_dir, self._queue, self._thumbnails = runs_dir, queue, thumbnails
        self._tails = EventTails()
        self._sizes: dict[tuple[str, int], int] = {}  # bytes on disk by path and size of the event log
        self._listing = RunListing()
        self._folders: tuple[float, list[RunFolder], int] = (-FOLDER_CACHE_S, [], 0)  # when, which, and their hash
        self._unreadable: set[Path] = set()
        self._lock = threading.Lock()

    def folder(self, run: str) -> RunFolder:
        """The run with an id from the page. Raises TextualInversionError if there is none."""
        parts = run.split("/") if isinstance(run, str) else []
        if len(parts) != 2 or any(not p or p.startswith(".") or "\\" in p or "\0" in p or ":" in p for p in parts):
            raise TextualInversionError("There is no such training.")
        path = self._runs_dir().absolute() / parts[0] / parts[1]
        if not os.path.isfile(path / "settings.json"):  # noqa: PTH113 - Path's own raises for names that are too long
            raise TextualInversionError("This training no longer exists.")
        return RunFolder(path)

    def follow(self, run: str, after: int) -> dict[str, Any]:
        """The details of one run, with its events from byte `after` on."""
        folder = self.folder(run)
        tail = self._tails.get(folder)
        job = self._queue.find(folder.path)
        events, offset = self._next_events(folder, max(0, int(after)))
        settings, history = tail.settings, tail.history
        state = self.state(folder, job, history.last)
        return {
            "id": run_id(folder), "name": settings.name, "kind": settings.kind, "state": state,
            "step": history.last_step(), "steps": self._total_steps(tail), "seconds_left": history.seconds_left(),
            "place": self._queue_position(job), "message": self._message(job, state, history.last), "busy": job is not None,
            "stopping": bool(job and job.cancelled), "resumable": job is None and self._is_resumable(folder, settings),
            "memory": history.memory.data if history.memory else None,
            "previewed": settings.preview_every > 0, "snapshots": sorted(history.snapshots),
            "warnings": self._warnings(history),
            "file": str(settings.out / f"{settings.name}.safetensors") if state == "finished" else None,
            "sharing": bool(job and job.keep_generating), "out_name": settings.name,
            "usage": usage(settings.name, settings.kind), "keeps_best": settings.keep == "best",
            "events": [{"kind": e.kind, "time": e.time, **e.data} for e in thin_out_steps(events)],
            "details": _log_tail(folder) if state == "failed" else "",
            "after": offset, "more": offset < tail.offset,
        }  # fmt: skip

    def advice(self, run: str) -> list[dict[str, str]]:
        """What to try next after a run, the weightiest first, in the form's words."""
        from lib_ti.runs.report.advice import advice
        from lib_ti.runs.report.facts import gather_facts

        folder = self.folder(run)
        found = advice(gather_facts(folder, folder.history()))
        return [{"title": flags_to_labels(item.title), "reason": flags_to_labels(item.reason)} for item in found]

    def list_runs(self, offset: int = 0, limit: int = PAGE) -> tuple[list[dict[str, Any]], int]:
        """A page of the runs, newest first, and how many there are. Runs that cannot be read are left out."""
        folders = self._all()
        page = folders[max(0, offset) : max(0, offset) + max(0, min(limit, MAX_PAGE))]
        rows = self.rows(page)
        return rows, len(folders) - len(page) + len(rows)

    def rows(self, folders: Iterable[RunFolder]) -> list[dict[str, Any]]:
        """The rows of some runs, as `list_runs` has them."""
        return [row for folder in folders if (row := self._row(folder))]

    def version(self) -> str:
        """Text that changes with the list of runs, but not with their steps."""
        jobs = [(run_id(job.folder), job.started) for job in self._queue.jobs()]
        folders = self._all()
        return f"{hash((self._folders[2] if folders else 0, tuple(jobs))):x}"

    def invalidate(self) -> None:
        """List the folder again, because a run was created or deleted."""
        with self._lock:
            self._folders = (-FOLDER_CACHE_S, [], 0)

    def running_elsewhere(self) -> RunFolder | None:
        """A recent run that a process outside our queue is training."""
        for folder in self._all()[:5]:
            with suppress(OSError):  # it was just deleted, or cannot be read
                if folder.running and not self._queue.find(folder.path):
                    return folder
        return None

    def latest(self, name: str) -> RunFolder | None:
        """The newest run of an embedding."""
        return next((folder for folder in self._all() if folder.path.parent.name == name), None)

    def state(self, folder: RunFolder, job: Job | None, last: Event | None) -> str:
        """The state for the page: queued, loading, encoding, training, saving, finished, stopped or failed."""
        if job is not None:
            if job.cancelled:
                return "saving"
            if not job.started:
                return "queued"
            kind = last.kind if last else "loading"
            return "loading" if kind in ("queued", "stopped", "failed") else _RUNNING_STATES.get(kind, "training")
        if last is not None and last.kind in TERMINAL_KINDS:
            return last.kind
        if folder.running:  # by another program, or by the WebUI before a restart, which is saving
            return _RUNNING_STATES.get(last.kind if last else "loading", "training")
        return "stopped"

    def reload_settings(self, folder: RunFolder) -> None:
        """Read a run's settings again, because it continues with others."""
        self._tails.forget(folder)

    def _next_events(self, folder: RunFolder, offset: int) -> tuple[list[Event], int]:
        events, next_offset = read_events(folder.events, offset, CHUNK_BYTES)
        if next_offset == offset:  # nothing new, or a line longer than a chunk
            events, next_offset = read_events(folder.events, offset)
        return events, next_offset

    def _all(self) -> list[RunFolder]:
        with self._lock:
            listed_at, folders, _ = self._folders
            if time.monotonic() - listed_at > FOLDER_CACHE_S:
                folders = self._listing.find(self._runs_dir())
                self._folders = (time.monotonic(), folders, hash(tuple(map(run_id, folders))))
            return folders

    def _row(self, folder: RunFolder) -> dict[str, Any] | None:
        """A run's row in the list; None, and a line in the log, if it cannot be read: one bad run hides no other."""
        try:
            return self._describe(folder)
        except (OSError, TextualInversionError):
            return None  # just deleted, or damaged by hand
        except Exception:
            if folder.path not in self._unreadable:
                self._unreadable.add(folder.path)
                log.exception("%s cannot be listed", folder.path)
            return None

    def _describe(self, folder: RunFolder) -> dict[str, Any]:
        tail = self._tails.get(folder)
        job, settings, history = self._queue.find(folder.path), tail.settings, tail.history
        last = history.last
        state = self.state(folder, job, last)
        if state == "stopped" and (last is None or last.kind != "stopped"):
            state = "interrupted"
        elif state in ("loading", "encoding", "training", "saving"):
            state = "running"
        step = history.last_step()
        return {
            "id": run_id(folder), "name": settings.name, "state": state, "step": step,
            "steps": self._total_steps(tail), "loss": history.steps[step].data.get("smoothed_loss") if step else None,
            "checkpoint": settings.model.name, "kind": settings.kind, "bytes": self._bytes_on_disk(folder),
            "time": last.time if last else (folder.path / "settings.json").stat().st_mtime,
            "thumb": self._thumbnail(folder, history), "resumable": job is None and self._is_resumable(folder, settings),
            "pictures": folder.images.is_dir(), "place": self._queue_position(job),
            "message": self._message(job, state, last),
        }  # fmt: skip

    def _total_steps(self, tail: EventTail) -> int:
        step = tail.history.last_step()
        reported = tail.history.steps[step].data.get("steps") if step else None
        return max(tail.settings.steps, int(reported or 0))

    def _queue_position(self, job: Job | None) -> int | None:
        jobs = self._queue.jobs()
        return jobs.index(job) if job in jobs and job is not None and not job.started else None

    def _message(self, job: Job | None, state: str, last: Event | None) -> str:
        if state == "failed" and last:
            return flags_to_labels(str(last.data.get("message", "")))
        if job is None and state in ("stopped", "interrupted") and (last is None or last.kind != "stopped"):
            return INTERRUPTED
        return ""

    def _is_resumable(self, folder: RunFolder, settings: TrainSettings) -> bool:
        return not folder.running and (folder.images.is_dir() or settings.images.is_dir())

    def _warnings(self, history: RunHistory) -> list[str]:
        return list(dict.fromkeys(flags_to_labels(str(e.data.get("message", ""))) for e in history.warnings))

    def _thumbnail(self, folder: RunFolder, history: RunHistory) -> str | None:
        latest_preview = history.latest_preview()
        if latest_preview is None:
            return None
        try:
            return self._thumbnails.get(folder.preview(*latest_preview), 128)
        except OSError:
            return None

    def _bytes_on_disk(self, folder: RunFolder) -> int:
        """The size of the run folder, measured again when its event log has grown."""
        try:
            key = (str(folder.path), folder.events.stat().st_size if folder.events.exists() else 0)
            if key not in self._sizes:
                self._sizes = {k: v for k, v in self._sizes.items() if k[0] != key[0]}
                self._sizes[key] = sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file())
            return self._sizes[key]
        except OSError:
            return 0


def _log_tail(folder: RunFolder) -> str:
    """The end of the run's log, for bug reports."""
    try:
        return folder.log.read_text(encoding="utf-8", errors="replace")[-MAX_LOG_CHARS:]
    except OSError:
        return ""


def run_id(folder: RunFolder) -> str:
    """A run's id for the page: NAME/DATE-TIME."""
    return f"{folder.path.parent.name}/{folder.path.name}"
