"""What memory a training will need: an estimate before anything is loaded, in no time and without torch.

The bytes stand in `estimate.json`, counted by `benchmarks/memory.py` on the real networks of each family (`model.memory.meta_memory`)
for pictures of some sizes, and grow with the pixels between and beyond them. A second picture in a step takes as much as the
first, and what is computed in fp32 twice as much.
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
SIDES = (256, 512, 1024)  # pixels
CONTEXT_MB = 470  # what CUDA itself takes on a card, for each process
WORK_MB = 32  # what its libraries take for their computations
PROCESS_MB = 650  # of a process that has done no more than import torch, transformers and diffusers
SPARE = 1.04  # what is reserved for the tensors, by what they take
PLAIN = "plain"  # in the table: as on a CPU, where the fast mode saves nothing


@dataclass(frozen=True)
class Work:
    """What is to be done: pictures of so many `pixels` at a time, and previews of `pixels_previewed`, where any are wanted.

    `arranged`: on a CPU, with a second copy of convolutions' weights, see `model.speed.prepacked_conv`.
    """

    batch_size: int
    pixels: int
    pixels_previewed: int
    previews: bool = True
    arranged: bool = False

    @classmethod
    def of(cls, settings: TrainSettings, resolution: int) -> Work:
        """The work of a training whose pictures have sides of `resolution` pixels."""
        width, height = settings.preview_width or resolution, settings.preview_height or resolution
        arranged = settings.acceleration in ("auto", "arranged")
        return cls(settings.batch_size, resolution**2, width * height, bool(settings.preview_every), arranged)


class Known:
    """What is known of a family's networks in a mode and precision: bytes of weights, and of what work holds beside them."""

    def __init__(self, family: str, mode: str, precision: str, on_card: bool) -> None:
        table = _table()[family]
        self._numbers = 2 if precision == "fp32" else 1  # of two bytes
        weights = table["weights"]["full" if precision == "fp32" else "half"]
        packed = "packed_" if mode == "low" else ""
        self.unet, self.text, self.vae = weights[packed + "unet"], weights[packed + "text"], weights["vae"]
        if on_card:
            self.text -= weights["vocabulary"]  # which stays in the processor's memory
        self.arranged = weights["arranged"]
        self._work = table["work"][PLAIN if mode == "fast" and not on_card else mode]
        self._vae_overflows = family == "sdxl" and precision == "fp16"  # it works in fp32 then
        if self._vae_overflows:
            self.vae *= 2

    def work(self, kind: str, pixels: int) -> float:
        """Bytes that a step, sampling, decoding or encoding holds for a picture of so many pixels."""
        numbers = 2 if self._vae_overflows and kind in ("decoding", "encoding") else self._numbers
        return numbers * between(self._work[kind], pixels)


def needed_mb(family: str, mode: str, precision: str, work: Work, on_card: bool) -> float:
    """Memory of the card, CUDA's own included, or of the process on a CPU."""
    known = Known(family, mode, precision, on_card)
    if work.arranged and mode == "fast" and not on_card:
        known.unet += known.arranged
    training = known.unet + known.text + work.batch_size * known.work("step", work.pixels)
    beside_vae = known.unet + known.vae + (0 if on_card and mode != "fast" else known.text)
    peaks = [training, beside_vae + known.work("encoding", work.pixels)]
    if work.previews:
        peaks += [
            training + (0 if on_card else known.vae),  # which stays there on a CPU
            known.unet + known.text + known.work("sampling", work.pixels_previewed),
            beside_vae + known.work("decoding", work.pixels_previewed),
        ]
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
