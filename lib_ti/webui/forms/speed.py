"""How long a training takes on this machine, and what memory: known from those before it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.data.captions import preview_count
from lib_ti.model.memory.estimate import Work
from lib_ti.runs.events import Event, read_events
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings

log = logging.getLogger("lib_ti")
FIRST_WORTH = 30  # steps; fewer say more about the start than about the pace
KEPT = 100  # measurements


@dataclass(frozen=True)
class Measurement:
    """One training's cost: seconds for a picture in a step, for a preview's sampling step, and until the first step.

    `memory`: the mode that it was trained in; `memory_mb`: the peak, on a card without what CUDA itself takes.
    """

    family: str
    device: str
    precision: str
    resolution: int
    batch_size: int
    memory: str
    picture_s: float
    sampling_s: float
    start_s: float
    memory_mb: float | None


_FIELDS = {field.name for field in fields(Measurement)}  # a record of earlier versions has others


@dataclass(frozen=True)
class Estimate:
    """`preview_s`: of the `seconds`, those of the previews. `memory_mb`: None where nothing with that batch was measured."""

    seconds: float
    preview_s: float
    memory_mb: float | None


class Speed:
    """The measurements of this machine, in a file beside the runs."""

    def __init__(self, runs: Path) -> None:
        self._path = runs / "speed.json"
        self._lock = threading.Lock()
        self._known: list[Measurement] | None = None

    def learn(self, folder: RunFolder) -> None:
        """Measure a training that has ended."""
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        try:
            settings = folder.settings
            measured = measure(settings, read_events(folder.events)[0], inspect_checkpoint(settings.model).family.name)
        except Exception:  # the estimate is a courtesy
            log.exception("%s could not be measured", folder.path)
            return
        if measured is None:
            return
        with self._lock:
            self._known = [*self._read(), measured][-KEPT:]
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                files.atomic_write_bytes(self._path, json.dumps([asdict(m) for m in self._known]).encode())
            except OSError:
                log.exception("measurements could not be kept")

    def estimate(
        self, settings: TrainSettings, family: str, resolution: int, device: str, mode: str
    ) -> Estimate | None:
        """What a training will take in a memory mode; None where nothing like it was measured here."""
        with self._lock:
            alike = [m for m in self._read() if (m.family, m.device) == (family, device)]
        if not alike:
            return None
        nearest = min(reversed(alike), key=lambda m: _distance(m, settings, resolution, mode))
        scale = (resolution / nearest.resolution) ** 2
        previews = preview_count(settings) * settings.preview_steps * nearest.sampling_s
        previews *= Work.of(settings, resolution).pixels_previewed / nearest.resolution**2
        steps = settings.steps * settings.effective_batch_size * nearest.picture_s * scale
        same = (nearest.resolution, nearest.batch_size, nearest.memory) == (resolution, settings.batch_size, mode)
        return Estimate(nearest.start_s + steps + previews, previews, nearest.memory_mb if same else None)

    def _read(self) -> list[Measurement]:
        if self._known is None:
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = [Measurement(**record) for record in found if record.keys() == _FIELDS]
            except (OSError, ValueError, TypeError, AttributeError):
                self._known = []
        return self._known


def measure(settings: TrainSettings, events: list[Event], family: str) -> Measurement | None:
    """The cost of the last stretch of a run, from its events; None if it was too short."""
    began = max((i for i, e in enumerate(events) if e.kind == "loading"), default=None)
    if began is None:
        return None
    stretch = events[began:]
    steps = [e for e in stretch if e.kind == "step"]
    if len(steps) < FIRST_WORTH:
        return None
    last: Mapping[str, Any] = steps[-1].data
    gaps = [b.time - a.time for a, b in pairwise(stretch) if b.kind == "preview"]
    return Measurement(
        family=family,
        device=settings.device,
        precision=settings.precision,
        resolution=settings.resolution or 512,
        batch_size=settings.batch_size,
        memory=settings.memory_modes[0],
        picture_s=1 / last["images_per_s"],
        sampling_s=_per_sampling_step(gaps, settings),
        start_s=steps[0].time - stretch[0].time,
        memory_mb=last.get("memory_mb"),
    )


def _per_sampling_step(gaps: list[float], settings: TrainSettings) -> float:
    """Seconds of a preview's sampling step at the training's resolution, by the time that previews took."""
    if not gaps:
        return 0.0
    resolution = settings.resolution or 512
    pixels = Work.of(settings, resolution).pixels_previewed
    return sorted(gaps)[len(gaps) // 2] / settings.preview_steps * resolution**2 / pixels


def _distance(m: Measurement, settings: TrainSettings, resolution: int, mode: str) -> tuple[int, ...]:
    """How unlike a training a measurement is, the weightier first."""
    return (
        m.memory != mode,
        abs(m.resolution - resolution),
        abs(m.batch_size - settings.batch_size),
    )
