"""How often the validation loss is measured, and on how many triples: as much as a small share of the run's time allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib_ti.training.validation.constants import (
    FORWARD_SHARE,
    MAX_TIME_SHARE,
    MAX_TRIPLES,
    MAX_VALIDATIONS,
    MIN_TRIPLES,
    MIN_VALIDATIONS,
    WANTED_TRIPLES,
)


@dataclass(frozen=True)
class Budget:
    """`interval`: steps from one validation to the next, 0: none; `triples`: of the validation set."""

    interval: int
    triples: int


def plan_validations(steps: int, effective_batch: int, interval: int | None = None) -> Budget:
    """What a training of so many steps can afford; `interval`: the user's own, None: "auto".

    A long run is measured more often and on more triples, a short one twice after step 0 and on a few; one that cannot afford
    even that is not validated at all, unless the user has asked for it.
    """
    if interval == 0:
        return Budget(0, 0)
    affordable = MAX_TIME_SHARE * steps * effective_batch / FORWARD_SHARE  # losses of one image each
    if interval is None:
        if affordable < MIN_TRIPLES * (MIN_VALIDATIONS + 1) or steps < MIN_VALIDATIONS:
            return Budget(0, 0)
        wanted = int(affordable / WANTED_TRIPLES) - 1
        count = min(steps, max(MIN_VALIDATIONS, min(MAX_VALIDATIONS, wanted)))
        interval = math.ceil(steps / count)
    validations = math.ceil(steps / interval) + 1
    return Budget(interval, max(MIN_TRIPLES, min(MAX_TRIPLES, int(affordable / validations))))
