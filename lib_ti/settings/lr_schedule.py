"""Learning rate schedules.

Two notations: a single rate with a schedule (constant, linear, cosine), or AUTOMATIC1111's piecewise constant schedule,
rates with the steps up to which they apply: ``0.005:100, 1e-3:1000, 5e-4``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_RATE = 1000.0
_DECIMAL_COMMA = re.compile(r"(?<![\w.,:+-])0,\d+(?:e-?\d+)?|^\s*\d+,\d+\s*$", re.IGNORECASE)
"""No list of rates: 0 is none, and the others in a list say up to which step they apply."""
RANDOM_WALK = 1.2  # length of the walk in `auto_learning_rate`
SHORTEST_SCALED = 25  # steps; shorter trainings have the rate of one of that length


class InvalidLearningRate(ValueError):
    """The text is not a learning rate; the message says why, for the user."""


@dataclass(frozen=True)
class Stage:
    """A rate and the last step that it applies to, counted from 1; None: to the end."""

    rate: float
    end_step: int | None


def parse_learning_rate(text: str) -> tuple[Stage, ...]:
    """Parse a learning rate in either notation; the step -1 is the end of the training. Raises InvalidLearningRate.

    >>> parse_learning_rate("0.005:100, 1e-3")
    (Stage(rate=0.005, end_step=100), Stage(rate=0.001, end_step=None))
    """
    if comma := _DECIMAL_COMMA.search(text):
        raise InvalidLearningRate(f"{comma[0]} has a comma; write {comma[0].replace(',', '.')}")
    stages: list[Stage] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if stages and stages[-1].end_step is None:
            rate = stages[-1].rate
            raise InvalidLearningRate(f"{rate:g} holds to the end, so nothing can follow it: give it as rate:step")
        stages.append(_parse_stage(part))
        if len(stages) > 1 and (end := stages[-1].end_step) is not None and end <= (stages[-2].end_step or 0):
            raise InvalidLearningRate(f"the steps must grow, but {end} follows {stages[-2].end_step}")
    if not stages:
        raise InvalidLearningRate("it is empty; give a number such as 0.005")
    return tuple(stages)


def is_piecewise(text: str) -> bool:
    """Whether a valid learning rate is in AUTOMATIC1111's notation, which needs no other schedule."""
    return ":" in text


def default_schedule(text: str) -> str:
    """The schedule of a learning rate where "auto" is chosen."""
    return "constant" if is_piecewise(text) else "cosine"


def auto_learning_rate(width: int, steps: int) -> float:
    """The learning rate for vectors of `width` values that are trained for `steps` steps, to two digits.

    One step of Adam at rate r moves a vector by about r√width, and as the gradients of single images are mostly noise, the
    steps of a training make a random walk of length r√(width · steps). It is held at `RANDOM_WALK`, a few times the length of a
    vocabulary's vector, whatever the text encoder and however long the training: docs/quality.md has the measurements.
    """
    rate = RANDOM_WALK / math.sqrt(width * max(steps, SHORTEST_SCALED))
    return float(f"{rate:.2g}")


def _parse_stage(text: str) -> Stage:
    rate_text, colon, end_text = text.partition(":")
    try:
        rate = float(rate_text)
        end = int(end_text) if colon else None
        if end == -1:  # "to the end", as AUTOMATIC1111 reads it
            end = None
    except ValueError:
        raise InvalidLearningRate(f"{text!r} is not a rate such as 0.005, nor rate:step such as 0.005:100") from None
    if not (math.isfinite(rate) and rate > 0):
        raise InvalidLearningRate(f"{rate_text.strip()} is not a finite number above 0")
    if rate > MAX_RATE:
        raise InvalidLearningRate(f"{rate_text.strip()} is far too high; 0.005 is usual")
    if end is not None and end < 1:
        raise InvalidLearningRate(f"step {end} in {text!r} is below 1")
    return Stage(rate, end)


@dataclass(frozen=True)
class LrSchedule:
    """The learning rate at each step.

    Attributes:
        stages: from `parse_learning_rate`; the last rate applies to the end of the training.
        steps: of the whole training.
        decay: how a single rate falls to zero after the warmup: constant (not at all), linear or cosine.
        warmup_steps: steps in which the rate rises linearly from zero.
    """

    stages: tuple[Stage, ...]
    steps: int
    decay: str = "constant"
    warmup_steps: int = 0

    def at(self, step: int) -> float:
        """The rate of the update from `step` to `step + 1`; the first step is 0."""
        if step < self.warmup_steps:
            return self._stage_rate(step) * (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        if self.decay == "linear":
            return self._stage_rate(step) * (1 - progress)
        if self.decay == "cosine":
            return self._stage_rate(step) * 0.5 * (1 + math.cos(math.pi * progress))
        return self._stage_rate(step)

    def _stage_rate(self, step: int) -> float:
        for stage in self.stages:
            if stage.end_step is None or step < stage.end_step:
                return stage.rate
        return self.stages[-1].rate
