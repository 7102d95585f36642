"""How long a training takes on this machine, and what memory: known from those before it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.events import Event, read
from lib_ti.runs.folder import RunFolder
from lib_ti.settings import TrainSettings

log = logging.getLogger("lib_ti")
FIRST_WORTH = 30  # steps; fewer say more about the start than about the pace
KEPT = 100  # measurements


@dataclass(frozen=True)
class Measurement:
    """One training's cost: seconds for a picture in a step, for a preview, and until the first step; peak memory."""

    family: str
    device: str
    precision: str
    resolution: int
    batch_size: int
    checkpointing: bool
    picture_s: float
    preview_s: float
    start_s: float
    memory_mb: float | None


@dataclass(frozen=True)
class Estimate:
    """`memory_mb` is None where no training with that batch and resolution was measured."""

    seconds: float
    memory_mb: float | None


class Speed:
    """The measurements of this machine, in a file beside the runs."""

    def __init__(self, runs: Path) -> None:
        self._path = runs / "speed.json"
        self._lock = threading.Lock()
        self._known: list[Measurement] | None = None

    def learn(self, folder: RunFolder) -> None:
        """Measure a training that has ended."""
        from lib_ti.model.describe import describe

        try:
            settings = folder.settings
            measured = measure(settings, read(folder.events)[0], describe(settings.model).family.name)
        except Exception:  # the estimate is a courtesy
            log.exception("%s could not be measured", folder.path)
            return
        if measured is None:
            return
        with self._lock:
            self._known = [*self._read(), measured][-KEPT:]
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(self._path, json.dumps([asdict(m) for m in self._known]).encode())
            except OSError:
                log.exception("measurements could not be kept")

    def estimate(self, settings: TrainSettings, family: str, resolution: int, device: str) -> Estimate | None:
        """What a training will take; None where nothing like it was measured here."""
        with self._lock:
            alike = [m for m in self._read() if (m.family, m.device) == (family, device)]
        if not alike:
            return None
        nearest = min(reversed(alike), key=lambda m: _distance(m, settings, resolution))
        scale = (resolution / nearest.resolution) ** 2
        previews = 0
        if settings.preview_every:
            prompts = len(settings.preview_prompt) or 2
            previews = (settings.steps // settings.preview_every + 1) * prompts * len(settings.preview_seed)
        steps = settings.steps * settings.global_batch * nearest.picture_s * scale
        same = (nearest.resolution, nearest.batch_size, nearest.checkpointing) == (
            resolution, settings.batch_size, settings.gradient_checkpointing,
        )  # fmt: skip
        seconds = nearest.start_s + steps + previews * nearest.preview_s * scale
        return Estimate(seconds, nearest.memory_mb if same else None)

    def _read(self) -> list[Measurement]:
        if self._known is None:
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = [Measurement(**record) for record in found]
            except (OSError, ValueError, TypeError):
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
        checkpointing=settings.gradient_checkpointing,
        picture_s=1 / last["images_per_s"],
        preview_s=sorted(gaps)[len(gaps) // 2] if gaps else 0.0,
        start_s=steps[0].time - stretch[0].time,
        memory_mb=last.get("memory_mb"),
    )


def _distance(m: Measurement, settings: TrainSettings, resolution: int) -> tuple[int, ...]:
    """How unlike a training a measurement is, the weightier first."""
    return (
        m.checkpointing != settings.gradient_checkpointing,
        abs(m.resolution - resolution),
        abs(m.batch_size - settings.batch_size),
    )
