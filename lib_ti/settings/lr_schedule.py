"""The learning rate as a function of the step.

Two notations: one number with a schedule (constant, linear, cosine), or AUTOMATIC1111's list of rates and the steps
they hold up to, ``0.005:100, 1e-3:1000, 5e-4``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HIGHEST = 1000.0


class UnreadableRate(ValueError):
    """The text is no learning rate; the message says what is wrong with it."""


@dataclass(frozen=True)
class Stage:
    """A rate and how long it holds."""

    rate: float
    until: int | None  # the last step it holds for, counted from 1; None: to the end


def parse(text: str) -> tuple[Stage, ...]:
    """Read a learning rate. Raises UnreadableRate.

    >>> parse("0.005:100, 1e-3")
    (Stage(rate=0.005, until=100), Stage(rate=0.001, until=None))
    """
    stages: list[Stage] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if stages and stages[-1].until is None:
            raise UnreadableRate(
                f"{stages[-1].rate:g} holds to the end, so nothing can follow it: give it as rate:step"
            )
        stages.append(_stage(part))
        if len(stages) > 1 and (last := stages[-1].until) is not None and last <= (stages[-2].until or 0):
            raise UnreadableRate(f"the steps must grow, but {last} follows {stages[-2].until}")
    if not stages:
        raise UnreadableRate("it is empty; give a number such as 0.005")
    return tuple(stages)


def is_list(text: str) -> bool:
    """Whether a readable rate is AUTOMATIC1111's list, which is a schedule of its own."""
    return ":" in text


def usual_schedule(text: str) -> str:
    """What "auto" means for the schedule of a rate."""
    return "constant" if is_list(text) else "cosine"


def _stage(part: str) -> Stage:
    rate_text, colon, until_text = part.partition(":")
    try:
        rate = float(rate_text)
        until = int(until_text) if colon else None
    except ValueError:
        raise UnreadableRate(f"{part!r} is not a rate such as 0.005, nor rate:step such as 0.005:100") from None
    if not (math.isfinite(rate) and rate > 0):
        raise UnreadableRate(f"{rate_text.strip()} is not a finite number above 0")
    if rate > HIGHEST:
        raise UnreadableRate(f"{rate_text.strip()} is far too high; 0.005 is usual")
    if until is not None and until < 1:
        raise UnreadableRate(f"step {until} in {part!r} is below 1")
    return Stage(rate, until)


@dataclass(frozen=True)
class LearningRate:
    """The rate at each step of a training of `steps` steps.

    `shape` (constant, linear, cosine) falls to zero over the whole training and applies to a single rate only; a
    list of rates is its own shape, and its last rate holds to the end. `warmup` steps rise linearly from zero.
    """

    stages: tuple[Stage, ...]
    steps: int
    shape: str = "constant"
    warmup: int = 0

    def at(self, step: int) -> float:
        """The rate of the update that takes step `step` to `step + 1`; the first is 0."""
        if step < self.warmup:
            return self._base(step) * (step + 1) / (self.warmup + 1)
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.shape == "linear":
            return self._base(step) * (1 - progress)
        if self.shape == "cosine":
            return self._base(step) * 0.5 * (1 + math.cos(math.pi * progress))
        return self._base(step)

    def _base(self, step: int) -> float:
        for stage in self.stages:
            if stage.until is None or step < stage.until:
                return stage.rate
        return self.stages[-1].rate
