"""Runs as the page sees them: the one it follows, with what is new of it, and the list of all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.runs.events import ENDINGS, Event, Timeline, read
from lib_ti.runs.folder import RunFolder, find_runs
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.api.event_tail import Followed, Following
from lib_ti.webui.forms.form_to_settings import translated
from lib_ti.webui.images.thumbnails import ThumbnailCache

CHUNK = 1 << 17  # bytes of events in one reply, so that it stays quick
LOG_SHOWN = 4000  # characters
AT_ONCE = 1500  # step events in one reply; of more, an even choice is sent
LISTED_FOR_S = 2.0  # how long a look at the runs' folder holds
INTERRUPTED = (
    "This was cut off: the WebUI or the computer ended, or the disk was full. All up to the last save is there."
)

_WORKING = {"loading": "loading", "encoding": "encoding", "saving": "saving", "finished": "saving"}
"""What a run that works is at, by its last event; anything else is training. A child that has finished its file is not
done before the host knows of it."""


class RunsView:
    """Answers about the runs in a folder."""

    def __init__(self, runs: Callable[[], Path], queue: RunQueue, thumbnails: ThumbnailCache) -> None:
        self._runs, self._queue, self._thumbnails = runs, queue, thumbnails
        self._following = Following()
        self._sizes: dict[tuple[str, int], int] = {}
        self._listed: tuple[float, list[RunFolder]] = (-LISTED_FOR_S, [])
        self._lock = threading.Lock()

    def folder(self, run: str) -> RunFolder:
        """The run of an id from the page. Raises TextualInversionError for what is none."""
        parts = run.split("/") if isinstance(run, str) else []
        if len(parts) != 2 or any(not p or p.startswith(".") or "\\" in p or "\0" in p or ":" in p for p in parts):
            raise TextualInversionError("There is no such training.")
        path = self._runs().absolute() / parts[0] / parts[1]
        if not os.path.isfile(path / "settings.json"):  # noqa: PTH113 - Path's own raises for names that are too long
            raise TextualInversionError("This training is not there any more.")
        return RunFolder(path)

    def follow(self, run: str, after: int) -> dict[str, Any]:
        """All about one run, with its events from byte `after` on."""
        folder = self.folder(run)
        followed = self._following.of(folder)
        job = self._queue.find(folder.path)
        events, read_to = self._next(folder, max(0, int(after)))
        settings, last = followed.settings, followed.state.last
        state = self.state(folder, job, last)
        return {
            "id": id_of(folder), "name": settings.name, "kind": settings.kind, "state": state,
            "step": max(followed.state.steps, default=0), "steps": self._steps(folder, followed),
            "place": self._place(job), "message": self._message(folder, job, state, last), "busy": job is not None,
            "stopping": bool(job and job.cancelled), "resumable": job is None and self._resumable(folder, settings),
            "memory": followed.state.memory.data if followed.state.memory else None,
            "previewed": settings.preview_every > 0, "snapshots": sorted(followed.state.snapshots),
            "warnings": self._warnings(followed.state),
            "file": str(settings.out / f"{settings.name}.safetensors") if state == "finished" else None,
            "sharing": bool(job and job.sharing), "out_name": settings.name,
            "events": [{"kind": e.kind, "time": e.time, **e.data} for e in thinned(events)],
            "details": _log_tail(folder) if state == "failed" else "",
            "after": read_to, "more": read_to < followed.read_to,
        }  # fmt: skip

    def _next(self, folder: RunFolder, after: int) -> tuple[list[Event], int]:
        events, read_to = read(folder.events, after, CHUNK)
        if read_to == after:  # nothing new, or a line that is longer
            events, read_to = read(folder.events, after)
        return events, read_to

    def listed(self) -> list[dict[str, Any]]:
        """The runs, the newest first."""
        return [shown for folder in self._all() if (shown := self._shown(folder))]

    def version(self) -> str:
        """Text that is another when the list of runs has changed, but for their steps."""
        jobs = [(id_of(job.folder), job.started) for job in self._queue.jobs()]
        return f"{hash((tuple(map(id_of, self._all())), tuple(jobs))):x}"

    def forget(self) -> None:
        """Look at the folder anew: a run was made or deleted."""
        with self._lock:
            self._listed = (-LISTED_FOR_S, [])

    def working(self) -> RunFolder | None:
        """A recent run that some process works on which is not in our queue."""
        for folder in self._all()[:5]:
            if folder.running and not self._queue.find(folder.path):
                return folder
        return None

    def latest(self, name: str) -> RunFolder | None:
        """The newest run of a word."""
        return next((folder for folder in self._all() if folder.path.parent.name == name), None)

    def state(self, folder: RunFolder, job: Job | None, last: Event | None) -> str:
        """As the page calls it: queued, loading, encoding, training, saving, finished, stopped, failed."""
        if job is not None:
            if job.cancelled:
                return "saving"
            if not job.started:
                return "queued"
            working = last.kind if last else "loading"
            return "loading" if working in ("queued", "stopped", "failed") else _WORKING.get(working, "training")
        if last is not None and last.kind in ENDINGS:
            return last.kind
        if folder.running:  # by another program, or the WebUI before this one, which is saving
            return _WORKING.get(last.kind if last else "loading", "training")
        return "stopped"

    def refreshed_settings(self, folder: RunFolder) -> None:
        """A run goes on with other settings."""
        self._following.forget(folder)

    def _all(self) -> list[RunFolder]:
        with self._lock:
            looked, found = self._listed
            if time.monotonic() - looked > LISTED_FOR_S:
                runs = self._runs()
                found = list(find_runs(runs)) if runs.is_dir() else []
                self._listed = (time.monotonic(), found)
            return found

    def _shown(self, folder: RunFolder) -> dict[str, Any] | None:
        try:
            followed = self._following.of(folder)
        except (OSError, TextualInversionError):
            return None  # deleted just now, or damaged by hand
        job, last, settings = self._queue.find(folder.path), followed.state.last, followed.settings
        state = self.state(folder, job, last)
        if state == "stopped" and (last is None or last.kind != "stopped"):
            state = "interrupted"
        elif state in ("loading", "encoding", "training", "saving"):
            state = "running"
        newest = max(followed.state.steps, default=0)
        loss = followed.state.steps[newest].data.get("smoothed_loss") if newest else None
        return {
            "id": id_of(folder), "name": settings.name, "state": state, "step": newest,
            "steps": self._steps(folder, followed), "loss": loss, "checkpoint": settings.model.name,
            "kind": settings.kind, "bytes": self._bytes(folder),
            "time": last.time if last else (folder.path / "settings.json").stat().st_mtime,
            "thumb": self._thumb(folder, followed.state), "resumable": job is None and self._resumable(folder, settings),
            "pictures": folder.images.is_dir(), "place": self._place(job),
            "message": self._message(folder, job, state, last),
        }  # fmt: skip

    def _steps(self, folder: RunFolder, followed: Followed) -> int:
        newest = max(followed.state.steps, default=0)
        told = followed.state.steps[newest].data.get("steps") if newest else None
        return max(followed.settings.steps, int(told or 0))

    def _place(self, job: Job | None) -> int | None:
        jobs = self._queue.jobs()
        return jobs.index(job) if job in jobs and job is not None and not job.started else None

    def _message(self, folder: RunFolder, job: Job | None, state: str, last: Event | None) -> str:
        if state == "failed" and last:
            return translated(str(last.data.get("message", "")))
        if job is None and state in ("stopped", "interrupted") and (last is None or last.kind != "stopped"):
            return INTERRUPTED
        return ""

    def _resumable(self, folder: RunFolder, settings: TrainSettings) -> bool:
        return not folder.running and (folder.images.is_dir() or settings.images.is_dir())

    def _warnings(self, state: Timeline) -> list[str]:
        told = dict.fromkeys(translated(str(e.data.get("message", ""))) for e in state.warnings)
        return list(told)

    def _thumb(self, folder: RunFolder, state: Timeline) -> str | None:
        if not state.previews:
            return None
        latest = max(step for step, _, _ in state.previews)
        first = min(place for place in state.previews if place[0] == latest)
        try:
            return self._thumbnails.get(folder.preview(*first), 128)
        except OSError:
            return None

    def _bytes(self, folder: RunFolder) -> int:
        """What the run takes on disk, counted anew when its events have grown."""
        try:
            key = (str(folder.path), folder.events.stat().st_size if folder.events.exists() else 0)
            if key not in self._sizes:
                self._sizes = {k: v for k, v in self._sizes.items() if k[0] != key[0]}
                self._sizes[key] = sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file())
            return self._sizes[key]
        except OSError:
            return 0


def _log_tail(folder: RunFolder) -> str:
    """The end of the run's log, for whoever is asked for help."""
    try:
        return folder.log.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:]
    except OSError:
        return ""


def id_of(folder: RunFolder) -> str:
    """A run's id for the page: NAME/DATE-TIME."""
    return f"{folder.path.parent.name}/{folder.path.name}"


def thinned(events: list[Event]) -> list[Event]:
    """The events with an even choice of the steps among them where there are very many; the last one is kept."""
    steps = [event for event in events if event.kind == "step"]
    if len(steps) <= AT_ONCE:
        return events
    kept = {id(steps[i * (len(steps) - 1) // (AT_ONCE - 1)]) for i in range(AT_ONCE)}
    return [event for event in events if event.kind != "step" or id(event) in kept]
