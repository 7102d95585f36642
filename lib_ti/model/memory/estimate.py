"""How much memory a training needs: an estimate before anything is loaded, without torch.

`estimate.json` holds bytes that `benchmarks/memory.py` counts on the real networks of each family (`meta_memory`) for a few
resolutions; between and beyond them bytes are linear in the pixels. Each image of a batch needs as much as the first, and fp32
twice as much as half precision.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib_ti.settings.train_settings import TrainSettings

TABLE = Path(__file__).with_suffix(".json")
SIDES = (256, 512, 1024)  # resolutions of the table, in pixels
CONTEXT_MB = 470  # a CUDA context, for each process
WORKSPACE_MB = 32  # workspaces of cuBLAS and cuDNN
PROCESS_MB = 650  # a process that has imported torch, transformers and diffusers and done nothing else
ALLOCATOR_OVERHEAD = 1.04  # reserved by allocated memory
PLAIN = "plain"  # in the table: without any memory technique, as the fast mode on a CPU


@dataclass(frozen=True)
class Workload:
    """What a training computes: batches of images of so many `pixels` each, and previews of `preview_pixels` if any.

    `prepacked`: on a CPU, a second copy of the convolutions' weights is kept, see `model.speed.prepacked_conv`.
    """

    batch_size: int
    pixels: int
    preview_pixels: int
    previews: bool = True
    prepacked: bool = False

    @classmethod
    def of(cls, settings: TrainSettings, resolution: int) -> Workload:
        """The workload of a training on images of `resolution` pixels each side."""
        width, height = settings.preview_width or resolution, settings.preview_height or resolution
        prepacked = settings.acceleration in ("auto", "arranged")
        return cls(settings.batch_size, resolution**2, width * height, bool(settings.preview_every), prepacked)


class NetworkMemory:
    """The table's bytes for a family in a mode and precision: of weights, and of activations beside them."""

    def __init__(self, family: str, mode: str, precision: str, on_gpu: bool) -> None:
        table = _table()[family]
        self._scale = 2 if precision == "fp32" else 1  # the table has half precision
        weights = table["weights"]["full" if precision == "fp32" else "half"]
        packed = "packed_" if mode == "low" else ""
        self.unet, self.text, self.vae = weights[packed + "unet"], weights[packed + "text"], weights["vae"]
        if on_gpu:
            self.text -= weights["vocabulary"]  # token tables stay in the CPU's memory
        self.prepacked = weights["arranged"]
        self._activations = table["work"][PLAIN if mode == "fast" and not on_gpu else mode]
        self._vae_in_fp32 = family == "sdxl" and precision == "fp16"  # it overflows in fp16
        if self._vae_in_fp32:
            self.vae *= 2

    def activations(self, task: str, pixels: int) -> float:
        """Bytes beside the weights of a `task` (step, sampling, decoding or encoding) on an image of so many pixels."""
        scale = 2 if self._vae_in_fp32 and task in ("decoding", "encoding") else self._scale
        return scale * interpolate(self._activations[task], pixels)


def needed_mb(family: str, mode: str, precision: str, work: Workload, on_gpu: bool) -> float:
    """The peak memory in MiB: on a GPU with the CUDA context, on a CPU of the whole process."""
    memory = NetworkMemory(family, mode, precision, on_gpu)
    if work.prepacked and mode == "fast" and not on_gpu:
        memory.unet += memory.prepacked
    training = memory.unet + memory.text + work.batch_size * memory.activations("step", work.pixels)
    with_vae = memory.unet + memory.vae + (0 if on_gpu and mode != "fast" else memory.text)
    peaks = [training, with_vae + memory.activations("encoding", work.pixels)]
    if work.previews:
        peaks += [
            training + (0 if on_gpu else memory.vae),  # it leaves a GPU while training
            memory.unet + memory.text + memory.activations("sampling", work.preview_pixels),
            with_vae + memory.activations("decoding", work.preview_pixels),
        ]
    mb: float = max(peaks) / 2**20 * ALLOCATOR_OVERHEAD
    return mb + (CONTEXT_MB + WORKSPACE_MB if on_gpu else PROCESS_MB)


def pick_memory_mode(
    settings: TrainSettings, family: str, precision: str, resolution: int, free_mb: float | None, on_gpu: bool
) -> tuple[str, float]:
    """The memory mode that a training runs in, and its peak memory there in MiB.

    It is the first mode allowed by the settings whose peak, CUDA context included, fits into `free_mb` of a GPU; if none
    does, the last one. Where `free_mb` is None (a CPU, or a GPU that cannot be asked) it is the first one.
    """
    modes, work = settings.memory_modes, Workload.of(settings, resolution)
    for mode in modes:
        needed = needed_mb(family, mode, precision, work, on_gpu)
        if free_mb is None or needed <= free_mb:
            break
    return mode, needed


def parameters_of(family: str) -> int:
    """Parameters of the UNet that the table is for."""
    return int(_table()[family]["parameters"])


def interpolate(values: Sequence[float], pixels: int) -> float:
    """The bytes for an image of so many pixels, from those for images of `SIDES`."""
    sizes = [side**2 for side in SIDES]
    i = max(1, min(bisect(sizes, pixels), len(sizes) - 1))
    fraction = (pixels - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
    return max(0.0, values[i - 1] + fraction * (values[i] - values[i - 1]))


@cache
def _table() -> Mapping[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table
