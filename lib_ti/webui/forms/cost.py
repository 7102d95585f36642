"""What a training will cost: time, memory and passes over the pictures, for the form and for trainings in the queue."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.forms import memory
from lib_ti.webui.forms.speed import Estimate, SpeedRecords
from lib_ti.webui.forms.typical_speed import typical_estimate
from lib_ti.webui.hosts.host import Host

LONG_PREVIEWS_S = 30


class CostEstimator:
    """Estimates trainings on one host: from those that were measured on this machine, else from a table."""

    def __init__(self, host: Host, speed_records: SpeedRecords) -> None:
        self._host, self._speed_records = host, speed_records

    def cost(
        self,
        settings: TrainSettings,
        checkpoint: Mapping[str, Any] | None,
        image_count: int,
        host_keeps_model: bool = False,
    ) -> dict[str, Any]:
        """Time, memory and passes over the images, as JSON. `checkpoint`: as `SelectedCheckpoint.summary` describes it."""
        passes = settings.steps * settings.effective_batch_size / image_count if image_count else 0.0
        reply: dict[str, Any] = {
            "text": "", "seconds": None, "preview_s": None, "memory_mb": None, "total_mb": None, "memory_mode": None,
            "measured": False, "memory_kind": "VRAM" if self._host.device().startswith("cuda") else "RAM", "passes": passes,
        }  # fmt: skip
        if not checkpoint or not checkpoint["family"]:
            return reply
        device, resolution = self._host.device(), settings.resolution or checkpoint["resolution"]
        family = checkpoint["family"]
        forecast = memory.forecast_memory(
            settings, family if checkpoint["usual"] else None, resolution, device, host_keeps_model
        )
        measured = self._speed_records.estimate(settings, family, resolution, device, forecast.mode)
        if measured and measured.memory_mb:
            forecast = forecast.with_measured(measured.memory_mb)
        estimate = measured or self._typical(settings, family, resolution, device, forecast)
        previews = (
            f", {duration(estimate.preview_s)} of it for previews" if estimate.preview_s >= LONG_PREVIEWS_S else ""
        )
        phrases = [f"About {duration(estimate.seconds)}{previews}", *forecast.describe()]
        return {
            **reply, **forecast.to_json(), "seconds": estimate.seconds, "preview_s": estimate.preview_s,
            "text": " · ".join(phrases),
        }  # fmt: skip

    def preset_note(
        self,
        settings: TrainSettings,
        checkpoint: Mapping[str, Any] | None,
        values: Mapping[str, str | bool],
        image_count: int,
    ) -> str:
        """The cost of a preset in words."""
        numbers = {k: int(v) for k, v in values.items() if k not in ("learning_rate", "early_stop")}
        estimate = self.cost(dataclasses.replace(settings, **numbers), checkpoint, image_count)  # type: ignore[arg-type]
        stops_early = values.get("early_stop", settings.early_stop)
        phrases = [f"{'up to ' if stops_early else ''}{values['steps']} steps"]
        if estimate["seconds"] is not None:
            phrases.append(f"about {duration(estimate['seconds'])}")
        if estimate["passes"]:
            passes = estimate["passes"]
            phrases.append(f"each picture seen {passes:.0f} times" if passes >= 1.5 else "each picture seen once")
        return ", ".join(phrases)

    def seconds_of_run(self, settings: TrainSettings) -> float | None:
        """How long a run will take from its start; None if its checkpoint cannot be read."""
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        try:
            description = inspect_checkpoint(settings.model)
        except (TextualInversionError, OSError):
            return None
        checkpoint = {
            "family": description.family.name, "resolution": description.resolution, "usual": description.standard_unet,
        }  # fmt: skip
        seconds: float | None = self.cost(settings, checkpoint, 0)["seconds"]
        return seconds

    def _typical(
        self, settings: TrainSettings, family: str, resolution: int, device: str, forecast: memory.MemoryForecast
    ) -> Estimate:
        choice = self._host.selected_checkpoint()
        path = settings.model if settings.model.is_file() else choice.path if choice else settings.model
        size = path.stat().st_size if path.is_file() else 0
        gpu_mb = forecast.gpu.total_mb if forecast.gpu else None
        return typical_estimate(settings, family, resolution, device, gpu_mb, size)


def duration(seconds: float) -> str:
    """A rounded duration: 40 s, 6 min, 1 h 20 min."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
