"""What memory a training will need: an estimate before anything is loaded, in no time and without torch.

The bytes stand in `needs.json`, counted by `benchmarks/memory.py` on the real networks of each family (`training.counting`)
for pictures of some sizes, and between these they grow with the pixels.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib_ti.settings import MEMORY_MODES, TrainSettings

TABLE = Path(__file__).with_suffix(".json")
SIDES = (256, 512, 1024, 1536)  # pixels
CONTEXT_MB = 500  # what CUDA itself takes on a card, for each process
WORK_MB = 64  # what its libraries take for their computations
PROCESS_MB = 650  # of a process that has done no more than import torch, transformers and diffusers
SPARE = 1.05  # between what the tensors take and what is reserved for them
PLAIN = "plain"  # in the table: as on a CPU, where the fast mode saves nothing


@dataclass(frozen=True)
class Work:
    """What is to be done: pictures of so many `pixels` at a time, and previews of `pixels_previewed`, where any are wanted."""

    batch_size: int
    pixels: int
    pixels_previewed: int
    previews: bool = True

    @classmethod
    def of(cls, settings: TrainSettings, resolution: int) -> Work:
        """The work of a training whose pictures have sides of `resolution` pixels."""
        width, height = settings.preview_width or resolution, settings.preview_height or resolution
        return cls(settings.batch_size, resolution**2, width * height, bool(settings.preview_every))


def needed_mb(family: str, mode: str, precision: str, work: Work, on_card: bool) -> float:
    """Memory of the card, CUDA's own included, or of the process on a CPU."""
    known = _table()[family]["half" if precision in ("bf16", "fp16") else "full"]
    mode = PLAIN if mode == "fast" and not on_card else mode
    weights, held = known["weights"], known[mode]
    packed = "packed_" if mode == "low" else ""
    unet, text, vae = weights[packed + "unet"], weights[packed + "text"], weights["vae"]
    pictures = held
    if family == "sdxl" and precision == "fp16":  # whose VAE overflows in it, and works in fp32 then
        pictures, vae = _table()[family]["full"][mode], _table()[family]["full"]["weights"]["vae"]
    beside = unet if mode in ("balanced", "low") and on_card else unet + text  # the VAE's work
    peaks = [
        unet + text + step_bytes(held, work.batch_size, work.pixels),
        beside + vae + between(pictures["encoding"], work.pixels),
    ]
    if work.previews:
        peaks += [
            unet + text + between(held["sampling"], work.pixels_previewed),
            beside + vae + between(pictures["decoding"], work.pixels_previewed),
        ]
        if not on_card:  # where the VAE stays
            peaks[0] += vae
    mb: float = max(peaks) / 2**20 * SPARE
    return mb + (CONTEXT_MB + WORK_MB if on_card else PROCESS_MB)


def fitting(modes: Sequence[str], family: str, precision: str, work: Work, free_mb: float) -> tuple[str, float]:
    """The first of the modes whose need, CUDA's own included, is met by what is free on a card; else the last. And the need."""
    for mode in modes:
        needed = needed_mb(family, mode, precision, work, on_card=True)
        if needed <= free_mb:
            break
    return mode, needed


def parameters_of(family: str) -> int:
    """Of the UNet that the estimates are for."""
    return int(_table()[family]["parameters"])


def least_card_mb(family: str, resolution: int) -> float:
    """What the smallest card must have for a training with previews, a picture at a time."""
    return needed_mb(family, MEMORY_MODES[-1], "fp16", Work(1, resolution**2, resolution**2), on_card=True)


def step_bytes(held: Mapping[str, Sequence[float]], batch_size: int, pixels: int) -> float:
    """What a step holds beside the weights."""
    return between(held["step"], pixels) + (batch_size - 1) * between(held["further"], pixels)


def between(known: Sequence[float], pixels: int) -> float:
    """The bytes for pictures of so many pixels, by those for pictures of `SIDES`."""
    places = [side**2 for side in SIDES]
    i = max(1, min(bisect(places, pixels), len(places) - 1))
    share = (pixels - places[i - 1]) / (places[i] - places[i - 1])
    return max(0.0, known[i - 1] + share * (known[i] - known[i - 1]))


@cache
def _table() -> Mapping[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table
