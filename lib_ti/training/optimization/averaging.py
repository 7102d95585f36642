"""The exponential moving average of the vectors: what a training shows, validates and saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class VectorAverage:
    """`decay`: 0 is no average. `sums`: by text encoder, Σ (1 - decay) decay^(n-i) v_i over the `count` updates i so far.

    Vectors that are not trained are not averaged: they stay what they are to the last bit.
    """

    decay: float
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    count: int = 0

    @torch.no_grad()
    def update(self, vectors: Mapping[str, torch.nn.Parameter]) -> None:
        """Take in the vectors of a new step."""
        if not self.decay:
            return
        self.count += 1
        for name, value in vectors.items():
            if value.requires_grad:
                previous = self.sums.get(name, torch.zeros_like(value))
                self.sums[name] = torch.lerp(value.detach(), previous, self.decay)

    def of(self, vectors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The average, corrected for its start from zero as Adam's moments are; before the first update `vectors` themselves."""
        correction = 1 - self.decay**self.count
        return {
            name: self.sums[name] / correction if name in self.sums else value.detach()
            for name, value in vectors.items()
        }
