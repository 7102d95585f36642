"""Encoded pictures: each once, its mean and deviation kept, a sample drawn from them at each use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_ti.data import images


@dataclass(frozen=True)
class Example:
    """A picture of the run: where its copy lies, its caption, its mask, and the size it is trained at."""

    path: Path
    caption: str
    mask: Path | None
    size: tuple[int, int]  # width, height
    masked: bool = True  # whether mask and alpha count
    original: tuple[int, int] | None = None  # width, height of the picture; None: as it is trained

    @property
    def frame(self) -> tuple[int, int, int, int, int, int]:
        """How the picture was cut: height and width before, top and left of the cut once it was resized, height and width.

        SDXL is told of it (Podell et al., "SDXL", 2024, section 2.2). As `pictures.fit` cuts about the centre, a mirrored
        picture has the same.
        """
        width, height = self.size
        before = self.original or self.size
        scale = max(width / before[0], height / before[1])
        top, left = round((before[1] * scale - height) / 2), round((before[0] * scale - width) / 2)
        return before[1], before[0], top, left, height, width


@dataclass(frozen=True)
class Encoded:
    """`mean`, `deviation`: (c, h, w) fp32. `weight`: (1, h, w) fp32, mean 1, or None where every place counts alike."""

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor | None

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        return self.mean + self.deviation * noise


@dataclass(frozen=True)
class View:
    """A picture as the trainer sees it: `pixels` (1, 3, h, w) in -1..1.

    `weight`: how much each latent counts, (1, h / factor, w / factor) with mean 1, or None.
    """

    pixels: torch.Tensor
    weight: torch.Tensor | None

    @property
    def mirrored(self) -> View:
        return View(self.pixels.flip(3), None if self.weight is None else self.weight.flip(2))


def view(example: Example, factor: int) -> View:
    """The picture at the size it is trained at; `factor`: pixels per latent, each way. Raises UnusableFile."""
    picture = images.decode(example.path)
    shown = np.asarray(images.flatten(images.fit(picture, *example.size)), dtype=np.float32)
    weight = None
    if mask := images.weight_of(picture, example.mask) if example.masked else None:
        values = torch.from_numpy(np.array(images.fit(mask, *example.size).reduce(factor), dtype=np.float32))
        weight = (values / values.mean()).unsqueeze(0) if values.max() > 0 else None
    return View(torch.from_numpy(shown / 127.5 - 1).permute(2, 0, 1).unsqueeze(0), weight)


def views(examples: Sequence[Example], factor: int) -> Iterator[View]:
    """Those of `examples`, the next one being decoded while one is at work with the last."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        coming = [pool.submit(view, example, factor) for example in examples[:1]]
        for example in examples[1:]:
            coming.append(pool.submit(view, example, factor))
            yield coming.pop(0).result()
        for last in coming:
            yield last.result()


class LatentCache:
    """Encoded pictures by (index, mirrored): in memory up to `bound` bytes, beyond that in one file.

    The file lives as long as the cache; its space is the system's page cache while that has room.
    """

    def __init__(self, overflow: Path, bound: int) -> None:
        self._kept: dict[tuple[int, bool], Encoded] = {}
        self._filed: dict[tuple[int, bool], tuple[int, list[tuple[int, ...]]]] = {}
        self._left, self._overflow = bound, overflow
        self._file: Any = None

    def put(self, index: int, mirrored: bool, encoded: Encoded) -> None:
        parts = [part for part in (encoded.mean, encoded.deviation, encoded.weight) if part is not None]
        size = sum(part.numel() * 4 for part in parts)
        if size <= self._left:
            self._left -= size
            self._kept[index, mirrored] = encoded
            return
        if self._file is None:
            self._file = self._overflow.open("w+b")
        at = self._file.seek(0, 2)
        for part in parts:
            self._file.write(part.numpy().tobytes())
        self._filed[index, mirrored] = (at, [tuple(part.shape) for part in parts])

    def get(self, index: int, mirrored: bool) -> Encoded:
        key = (index, mirrored)
        if key in self._kept:
            return self._kept[key]
        at, shapes = self._filed[key]
        self._file.seek(at)
        parts: list[torch.Tensor | None] = []
        for shape in shapes:
            data = bytearray(self._file.read(4 * int(np.prod(shape))))
            parts.append(torch.frombuffer(data, dtype=torch.float32).view(shape))
        mean, deviation, mask = [*parts, None][:3]
        assert mean is not None and deviation is not None
        return Encoded(mean, deviation, mask)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._overflow.unlink(missing_ok=True)
