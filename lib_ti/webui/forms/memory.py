"""The memory that a training will need and that the device has, for the form, without loading anything."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lib_ti.model.memory import estimate
from lib_ti.settings.train_settings import MEMORY_MODES, TrainSettings
from lib_ti.training.preflight.resolve_auto import expected_precision

log = logging.getLogger("lib_ti")
QUERY_INTERVAL_S = 30.0  # nvidia-smi is slow


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory in MiB; `free_mb` counts what this process could release."""

    total_mb: float
    free_mb: float


@dataclass(frozen=True)
class MemoryForecast:
    """The memory mode that a training will run in, and its peak memory there; `needed_mb` is None if it cannot be told.

    `gpu`: None on a CPU, and where the GPU's memory is unknown. `measured`: by an earlier run on this machine.
    """

    mode: str
    needed_mb: float | None
    gpu: GpuMemory | None
    measured: bool = False

    def with_measured(self, peak_mb: float) -> MemoryForecast:
        """With the peak of an earlier run, on a GPU without the CUDA context, instead of the estimate."""
        return replace(self, needed_mb=peak_mb + (estimate.CONTEXT_MB if self.gpu else 0), measured=True)

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return {
            "memory_mb": self.needed_mb, "memory_mode": self.mode, "measured": self.measured,
            "total_mb": self.gpu.total_mb if self.gpu else None, "free_mb": self.gpu.free_mb if self.gpu else None,
        }  # fmt: skip

    def describe(self) -> list[str]:
        """Phrases for users, in GB of 1024 MB, as GPUs are sold by."""
        if self.needed_mb is None:
            return []
        number = f"{self.needed_mb / 1024:.1f}"
        amount = number if self.measured else f"about {number}"
        if self.gpu is None:
            return [f"needs {amount} GB"]
        phrases = [f"needs {amount} of {self.gpu.total_mb / 1024:.0f} GB"]
        if self.mode != MEMORY_MODES[0]:
            phrases[0] += f" in memory mode {self.mode}"
        if self.needed_mb > self.gpu.free_mb:
            phrases.append(f"only {self.gpu.free_mb / 1024:.1f} GB free")
        return phrases


def forecast_memory(
    settings: TrainSettings, family: str | None, resolution: int, device: str, host_keeps_model: bool
) -> MemoryForecast:
    """The forecast for a training on a usual checkpoint of a family; None: on one of other sizes, which has no estimate.

    `host_keeps_model`: the WebUI's own model stays on the GPU meanwhile.
    """
    gpu = gpu_memory(device, host_keeps_model)
    if family is None:
        return MemoryForecast(settings.memory_modes[0], None, gpu)
    on_gpu = gpu is not None or device.startswith("cuda")
    precision = expected_precision(settings, device, on_gpu, estimate.parameters_of(family))
    free_mb = gpu.free_mb if gpu else None
    mode, needed_mb = estimate.pick_memory_mode(settings, family, precision, resolution, free_mb, on_gpu)
    return MemoryForecast(mode, needed_mb, gpu)


def gpu_memory(device: str, host_keeps_model: bool = False) -> GpuMemory | None:
    """The memory of the GPU that `device` (auto, cpu, cuda, cuda:N) means; None on a CPU and where it cannot be read."""
    if device == "cpu":
        return None
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():  # by the host, so asking costs nothing
            cuda_device = None if device == "auto" else device
            free, total = torch.cuda.mem_get_info(cuda_device)
            releasable = 0 if host_keeps_model else torch.cuda.memory_reserved(cuda_device)
            return GpuMemory(total / 2**20, (free + releasable) / 2**20)
        return _query_nvidia_smi(int(device.partition(":")[2] or 0), int(time.monotonic() / QUERY_INTERVAL_S))
    except Exception:  # the GPU cannot be reached any more; starting the training will say so
        log.exception("the memory of %s is unknown", device)
        return None


@lru_cache(maxsize=8)
def _query_nvidia_smi(index: int, period: int) -> GpuMemory | None:
    """The memory of CUDA device `index` by nvidia-smi, which runs once for each `period` of time."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible is not None else []
    if visible is not None and index >= len(ids):
        return None
    command = [program, f"--id={ids[index].strip() if ids else index}", "--query-gpu=memory.total,memory.free"]
    try:
        output = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        total, free = (float(number) for number in output.strip().splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return GpuMemory(total, free)
