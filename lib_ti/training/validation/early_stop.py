"""Whether a training ends before its last planned step: a function of its validations, so that a resumed run decides alike.

A flat loss does not mean that nothing is left to gain: while the learning rate is high the vectors jump around a better place
than any they are in, and reach it when the rate falls (so a cosine's loss often falls at its end). Therefore a training whose
loss no longer falls is not cut off: it cools down, the rate falling to zero over the next steps, and ends then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.validation.constants import (
    COOLDOWN_SHARE,
    MIN_COOLDOWN_STEPS,
    MIN_TRAINED_SHARE,
    PATIENCE,
)
from lib_ti.training.validation.history import ValidationHistory


@dataclass(frozen=True)
class StopPlan:
    """`end`: the last step; `cooldown_start`: the step from which the learning rate falls, None if it follows its schedule."""

    end: int
    cooldown_start: int | None = None

    def rate_factor(self, step: int) -> float:
        """What the learning rate of the update from `step` to `step + 1` is multiplied by."""
        if self.cooldown_start is None or step < self.cooldown_start:
            return 1.0
        return max(0.0, (self.end - step) / (self.end - self.cooldown_start + 1))


def plan_stop(history: ValidationHistory, settings: TrainSettings) -> StopPlan:
    """When the training ends, as far as its validations say. A cooldown that would save nothing is not begun."""
    planned = StopPlan(settings.steps)
    if not settings.early_stop:
        return planned
    steps = history.trained_steps
    for count, step in enumerate(steps, 1):
        if step >= MIN_TRAINED_SHARE * settings.steps and _is_flat(history, steps[:count]):
            end = step + max(MIN_COOLDOWN_STEPS, math.ceil(COOLDOWN_SHARE * step))
            return StopPlan(end, step) if end < settings.steps else planned
    return planned


def _is_flat(history: ValidationHistory, steps: list[int]) -> bool:
    """Whether none of the last validations was better than the best before them.

    A training that has not found its concept yet is flat too: it goes on.
    """
    last_improvement = history.last_improvement(steps)
    return len(steps) > PATIENCE and 0 < last_improvement < steps[-PATIENCE]
