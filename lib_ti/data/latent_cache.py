"""Cache the VAE's posterior of each image: encoded once, sampled anew at each use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's diagonal Gaussian for one image.

    Attributes:
        mean: (c, h, w) fp32.
        std: (c, h, w) fp32.
        loss_weight: (1, h, w) fp32 with mean 1; None: all latents weigh the same.
    """

    mean: torch.Tensor
    std: torch.Tensor
    loss_weight: torch.Tensor | None

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        return self.mean + self.std * noise


class LatentCache:
    """Latent distributions by (image index, mirrored): in memory up to `max_bytes`, beyond that in one file.

    The file lives as long as the cache. Reads mostly come from the system's page cache while it has room.
    """

    def __init__(self, overflow_path: Path, max_bytes: int) -> None:
        self._in_memory: dict[tuple[int, bool], LatentDistribution] = {}
        self._on_disk: dict[tuple[int, bool], tuple[int, list[tuple[int, ...]]]] = {}  # offset and shapes
        self._free_bytes, self._overflow_path = max_bytes, overflow_path
        self._file: Any = None

    def put(self, index: int, mirrored: bool, latents: LatentDistribution) -> None:
        tensors = [tensor for tensor in (latents.mean, latents.std, latents.loss_weight) if tensor is not None]
        size = sum(tensor.numel() * 4 for tensor in tensors)
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._in_memory[index, mirrored] = latents
            return
        if self._file is None:
            self._file = self._overflow_path.open("w+b")
        offset = self._file.seek(0, 2)
        for tensor in tensors:
            self._file.write(tensor.numpy().tobytes())
        self._on_disk[index, mirrored] = (offset, [tuple(tensor.shape) for tensor in tensors])

    def get(self, index: int, mirrored: bool) -> LatentDistribution:
        key = (index, mirrored)
        if key in self._in_memory:
            return self._in_memory[key]
        offset, shapes = self._on_disk[key]
        self._file.seek(offset)
        tensors: list[torch.Tensor | None] = []
        for shape in shapes:
            data = bytearray(self._file.read(4 * int(np.prod(shape))))
            tensors.append(torch.frombuffer(data, dtype=torch.float32).view(shape))
        mean, std, loss_weight = [*tensors, None][:3]
        assert mean is not None and std is not None
        return LatentDistribution(mean, std, loss_weight)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._overflow_path.unlink(missing_ok=True)
