"""How long a training takes on this machine and how much memory, from measurements of earlier runs."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.data.captions import preview_count, prompts_of_tests
from lib_ti.model.memory.estimate import Workload
from lib_ti.runs.events import Event, read_events
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings

log = logging.getLogger("lib_ti")
MIN_STEPS = 30  # fewer steps measure the start rather than the pace
MAX_MEASUREMENTS = 100


@dataclass(frozen=True)
class Measurement:
    """The cost of one run; a record of `speed.json`, so the fields' names are stored.

    `picture_s`: seconds of training for each image of a step. `sampling_s`: for a preview's sampling step at the training
    resolution. `start_s`: until the first step. `memory`: the memory mode. `memory_mb`: the peak, on a GPU without the CUDA
    context.
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


_FIELDS = {field.name for field in fields(Measurement)}  # records of earlier versions have others


@dataclass(frozen=True)
class Estimate:
    """`preview_s`: the previews' part of `seconds`. `memory_mb`: None if no run with that batch size was measured."""

    seconds: float
    preview_s: float
    memory_mb: float | None


class SpeedRecords:
    """The measurements of this machine, in a file beside the runs."""

    def __init__(self, runs: Path) -> None:
        self._path = runs / "speed.json"
        self._lock = threading.Lock()
        self._measurements: list[Measurement] | None = None

    def add(self, folder: RunFolder) -> None:
        """Measure a run that has ended and store the result."""
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        try:
            settings = folder.settings
            measurement = measure_run(
                settings, read_events(folder.events)[0], inspect_checkpoint(settings.model).family.name
            )
        except Exception:  # estimates are optional
            log.exception("%s could not be measured", folder.path)
            return
        if measurement is None:
            return
        with self._lock:
            self._measurements = [*self._load(), measurement][-MAX_MEASUREMENTS:]
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                records = [asdict(m) for m in self._measurements]
                files.atomic_write_bytes(self._path, json.dumps(records).encode())
            except OSError:
                log.exception("measurements could not be stored")

    def estimate(
        self, settings: TrainSettings, family: str, resolution: int, device: str, mode: str
    ) -> Estimate | None:
        """The cost of a training in a memory mode; None if no run of that family on that device was measured."""
        with self._lock:
            candidates = [m for m in self._load() if (m.family, m.device) == (family, device)]
        if not candidates:
            return None
        nearest = min(reversed(candidates), key=lambda m: _distance(m, settings, resolution, mode))
        scale = (resolution / nearest.resolution) ** 2
        images = preview_count(settings) + len(prompts_of_tests(settings))
        preview_s = images * settings.preview_steps * nearest.sampling_s
        preview_s *= Workload.of(settings, resolution).preview_pixels / nearest.resolution**2
        steps_s = settings.steps * settings.effective_batch_size * nearest.picture_s * scale
        same = (nearest.resolution, nearest.batch_size, nearest.memory) == (resolution, settings.batch_size, mode)
        return Estimate(nearest.start_s + steps_s + preview_s, preview_s, nearest.memory_mb if same else None)

    def _load(self) -> list[Measurement]:
        if self._measurements is None:
            try:
                records = json.loads(self._path.read_text(encoding="utf-8"))
                self._measurements = [Measurement(**record) for record in records if record.keys() == _FIELDS]
            except (OSError, ValueError, TypeError, AttributeError):
                self._measurements = []
        return self._measurements


def measure_run(settings: TrainSettings, events: Sequence[Event], family: str) -> Measurement | None:
    """The cost of a run since its last start or resume, from its events; None if that was too short."""
    start = max((i for i, e in enumerate(events) if e.kind == "loading"), default=None)
    if start is None:
        return None
    session = events[start:]
    steps = [e for e in session if e.kind == "step"]
    if len(steps) < MIN_STEPS:
        return None
    last: Mapping[str, Any] = steps[-1].data
    preview_times_s = [b.time - a.time for a, b in pairwise(session) if b.kind == "preview"]
    return Measurement(
        family=family,
        device=settings.device,
        precision=settings.precision,
        resolution=settings.resolution or 512,
        batch_size=settings.batch_size,
        memory=settings.memory_modes[0],
        picture_s=1 / last["images_per_s"],
        sampling_s=_sampling_step_s(preview_times_s, settings),
        start_s=steps[0].time - session[0].time,
        memory_mb=last.get("memory_mb"),
    )


def _sampling_step_s(preview_times_s: list[float], settings: TrainSettings) -> float:
    """Seconds of a sampling step at the training resolution, from the median time of a preview."""
    if not preview_times_s:
        return 0.0
    resolution = settings.resolution or 512
    pixels = Workload.of(settings, resolution).preview_pixels
    median_s = sorted(preview_times_s)[len(preview_times_s) // 2]
    return median_s / settings.preview_steps * resolution**2 / pixels


def _distance(m: Measurement, settings: TrainSettings, resolution: int, mode: str) -> tuple[int, ...]:
    """How much a measured run differs from a training, the most important difference first."""
    return (
        m.memory != mode,
        abs(m.resolution - resolution),
        abs(m.batch_size - settings.batch_size),
    )
