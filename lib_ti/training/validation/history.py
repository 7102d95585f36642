"""The validation losses of a training so far, and which step is the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lib_ti.training.validation.constants import (
    IMPROVEMENT_STANDARD_ERRORS,
    OVERTRAINED_VALIDATIONS,
    TIE_STANDARD_ERRORS,
)
from lib_ti.training.validation.statistics import PairedDifference, paired_difference


@dataclass
class ValidationHistory:
    """`losses`: by step, the loss of each triple (triples,) fp32 on the CPU; NaN where a prediction overflowed.

    `min_improvement`: by which a step must be better than another, as a share of what the loss has fallen by since step 0.
    """

    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    min_improvement: float = 0.0

    @property
    def triples(self) -> int | None:
        """How many there are in the validation set; None before the first validation."""
        return len(next(iter(self.losses.values()))) if self.losses else None

    @property
    def trained_steps(self) -> list[int]:
        """The validated steps after step 0, in order."""
        return sorted(step for step in self.losses if step > 0)

    def difference(self, step: int, reference: int) -> PairedDifference:
        """How the losses of one step differ from those of another."""
        return paired_difference(self.losses[step], self.losses[reference])

    def mean(self, step: int) -> float:
        """The mean loss of a step."""
        return float(self.losses[step].nanmean())

    def is_better(self, step: int, than: int) -> bool:
        """Whether the loss of one step is lower than that of another, by more than chance and enough to matter."""
        difference = self.difference(step, than)
        chance = IMPROVEMENT_STANDARD_ERRORS * difference.standard_error
        return -difference.mean > max(chance, self.min_improvement * (self.mean(0) - self.mean(than)))

    def last_improvement(self, steps: Sequence[int]) -> int:
        """The last of some steps, given in order, that was better than all before it; 0 if none was better than step 0."""
        best = 0
        for step in steps:
            if self.is_better(step, best):
                best = step
        return best

    @property
    def best_step(self) -> int:
        """The latest step whose loss is at most a standard error above the lowest one; 0 before the first validation.

        Among steps that the triples cannot tell apart the latest was trained at the lowest rate, so that the least noise of
        single images is in it: on the practice model the earliest of them was 3 % of the gap worse, and in one run of seventy
        it had not found the concept yet. Step 0 does not count: its vectors are those of the init text. As validations are
        added, the best step either stays or becomes the one that was added: no vectors but its own need be kept.
        """
        best = lowest = 0
        for step in self.trained_steps:
            if not lowest or self.mean(step) < self.mean(lowest):
                best = lowest = step
                continue
            above = self.difference(step, lowest)
            if above.mean <= TIE_STANDARD_ERRORS * above.standard_error:
                best = step
        return best

    @property
    def is_overtrained(self) -> bool:
        """Whether the last validations in a row are all significantly above the best."""
        steps, best = self.trained_steps, self.best_step
        last = [step for step in steps if step > best][-OVERTRAINED_VALIDATIONS:]
        return len(last) == OVERTRAINED_VALIDATIONS and all(self.difference(s, best).is_above_zero for s in last)

    def to_tensor(self) -> torch.Tensor:
        """All losses, (validations, triples), in the order of the steps."""
        return torch.stack([self.losses[step] for step in sorted(self.losses)])

    def replaced(self, steps: Iterable[int], losses: torch.Tensor) -> ValidationHistory:
        """A history with other losses, from `to_tensor`, of these steps, in order."""
        return replace(self, losses=dict(zip(steps, losses, strict=True)))
