"""Reads the event logs of runs incrementally: each event once, however often the page asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from lib_ti.runs.events import Event, RunHistory, read_events_last_step_only
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings

MAX_STEP_EVENTS = 1500  # in one reply; of more, an evenly spaced selection is sent
MAX_RUNS = 200  # the least recently requested beyond these are read again from the start


@dataclass
class EventTail:
    """A run whose events have been read up to byte `offset`. Keeps a summary of them, not the events."""

    folder: RunFolder
    settings: TrainSettings
    offset: int = 0
    history: RunHistory = field(default_factory=RunHistory)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Read the new events."""
        with self.lock:
            new, self.offset = read_events_last_step_only(self.folder.events, self.offset)
            self.history.add(new)
            if len(self.history.steps) > 1:  # only the last step is needed here; the page keeps the others
                last_step = self.history.last_step()
                self.history.steps = {last_step: self.history.steps[last_step]}


class EventTails:
    """The event tails of all runs that were requested lately. Thread-safe."""

    def __init__(self) -> None:
        self._tails: OrderedDict[Path, EventTail] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: RunFolder) -> EventTail:
        """The up-to-date tail of a run. Raises OSError or TextualInversionError if the run cannot be read."""
        with self._lock:
            tail = self._tails.get(folder.path)
            size = folder.events.stat().st_size if folder.events.exists() else 0
            if tail is None or tail.offset > size:  # shorter than before: another run has replaced it
                tail = EventTail(folder, folder.settings)
                self._tails[folder.path] = tail
            self._tails.move_to_end(folder.path)
            while len(self._tails) > MAX_RUNS:
                self._tails.popitem(last=False)
        tail.refresh()
        return tail

    def forget(self, folder: RunFolder) -> None:
        """Read a run again from the start, because its settings have changed."""
        with self._lock:
            self._tails.pop(folder.path, None)


def thin_out_steps(events: list[Event]) -> list[Event]:
    """The events with at most `MAX_STEP_EVENTS` steps among them, evenly spaced, the first and last included."""
    steps = [event for event in events if event.kind == "step"]
    if len(steps) <= MAX_STEP_EVENTS:
        return events
    selected = {id(steps[i * (len(steps) - 1) // (MAX_STEP_EVENTS - 1)]) for i in range(MAX_STEP_EVENTS)}
    return [event for event in events if event.kind != "step" or id(event) in selected]
