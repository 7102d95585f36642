"""The loss scale of fp16, which torch's own scaler names differently in the releases that are supported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class LossScaler:
    """Keeps fp16 gradients in range: the loss is multiplied by `scale`, halved on overflow, doubled after a quiet interval.

    With bf16 and fp32 it does nothing (`active` false, scale 1).
    """

    active: bool
    scale: float = 1.0
    steps_since_overflow: int = 0
    consecutive_overflows: int = 0

    GROWTH_INTERVAL = 500
    MAX_CONSECUTIVE_OVERFLOWS = 30

    def __post_init__(self) -> None:
        if self.active and self.scale == 1.0:
            self.scale = 2.0**14

    def unscale(self, parameters: list[torch.nn.Parameter]) -> bool:
        """Unscale the gradients; False if they overflowed and the update must be skipped."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self.active:
            return True
        for gradient in gradients:
            gradient.div_(self.scale)
        if all(bool(torch.isfinite(g).all()) for g in gradients):
            self.steps_since_overflow, self.consecutive_overflows = self.steps_since_overflow + 1, 0
            if self.steps_since_overflow >= self.GROWTH_INTERVAL:
                self.scale, self.steps_since_overflow = self.scale * 2, 0
            return True
        self.scale, self.steps_since_overflow = max(1.0, self.scale / 2), 0
        self.consecutive_overflows += 1
        return False

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "quiet": self.steps_since_overflow, "overflows": self.consecutive_overflows}

    def load_state_dict(self, record: Mapping[str, Any]) -> None:
        if not self.active:
            return  # it was in another precision
        self.scale = float(record["scale"])
        self.steps_since_overflow, self.consecutive_overflows = int(record["quiet"]), int(record["overflows"])
