"""Runs whose events are read as they come: each once, however often the page asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from lib_ti.runs.events import Timeline, read_milestones
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings

MOST = 200  # runs; of more, those that nobody asked for the longest are read anew


@dataclass
class Followed:
    """A run up to byte `read_to` of its events. What the page needs of them all is kept, not the events."""

    folder: RunFolder
    settings: TrainSettings
    read_to: int = 0
    state: Timeline = field(default_factory=Timeline)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Read what is new."""
        with self.lock:
            new, self.read_to = read_milestones(self.folder.events, self.read_to)
            self.state.add(new)
            if len(self.state.steps) > 1:  # the last one tells where the run is; the others are the page's
                newest = max(self.state.steps)
                self.state.steps = {newest: self.state.steps[newest]}


class Following:
    """All runs that are followed. To be asked from any thread."""

    def __init__(self) -> None:
        self._runs: OrderedDict[Path, Followed] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: RunFolder) -> Followed:
        """The run in a folder as it is now. Raises OSError or TextualInversionError where it cannot be read."""
        with self._lock:
            followed = self._runs.get(folder.path)
            size = folder.events.stat().st_size if folder.events.exists() else 0
            if followed is None or followed.read_to > size:  # shorter than before: another run has taken its place
                followed = Followed(folder, folder.settings)
                self._runs[folder.path] = followed
            self._runs.move_to_end(folder.path)
            while len(self._runs) > MOST:
                self._runs.popitem(last=False)
        followed.refresh()
        return followed

    def forget(self, folder: RunFolder) -> None:
        """Read a run anew: it goes on with other settings."""
        with self._lock:
            self._runs.pop(folder.path, None)
