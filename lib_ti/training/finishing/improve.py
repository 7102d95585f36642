"""What may improve vectors after their training: fewer of them, the mean of several steps', another length.

Each is measured on the validation set, and keeps what was there unless the measurement speaks for the change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.training.validation.statistics import PairedDifference, paired_difference

Vectors = Mapping[str, torch.Tensor]
"""By text encoder, (n, width)."""
Losses = Callable[[Vectors], torch.Tensor]
"""The loss of each triple of a validation set, (triples,), with vectors of any number."""

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)


@dataclass(frozen=True)
class Improvement:
    """What was chosen. `change`: of the validation loss; `sentence`: what was done, for the user."""

    vectors: Vectors
    change: PairedDifference | None
    sentence: str


def prune(vectors: Vectors, losses: Losses) -> Improvement:
    """Drop vectors one by one, each time the least useful, until the loss would rise significantly."""
    count = _count(vectors)
    reference, change = losses(vectors), None
    kept = vectors
    while _count(kept) > 1:
        candidates = [_without(kept, i) for i in range(_count(kept))]
        changes = [paired_difference(losses(candidate), reference) for candidate in candidates]
        i = min(range(len(changes)), key=lambda i: changes[i].mean)
        if changes[i].is_above_zero:
            break
        kept, change = candidates[i], changes[i]
    dropped = count - _count(kept)
    if not dropped:
        return Improvement(vectors, None, f"each of the {count} vectors lowers the validation loss")
    return Improvement(kept, change, f"{dropped} of {count} vectors did nothing and were left out")


def average(vectors: Vectors, earlier: Sequence[Vectors], losses: Losses) -> Improvement:
    """The mean of the vectors and of those of earlier steps, if its loss is lower."""
    if not earlier:
        return Improvement(vectors, None, "there is nothing to average")
    steps = [vectors, *earlier]
    mean = {name: torch.stack([step[name] for step in steps]).mean(dim=0) for name in vectors}
    change = paired_difference(losses(mean), losses(vectors))
    if change.mean >= 0:
        return Improvement(vectors, change, f"the mean of the last {len(steps)} snapshots is no better than the last")
    return Improvement(mean, change, f"the mean of the last {len(steps)} snapshots is better than the last")


def strength(vectors: Vectors, losses: Losses, factors: Sequence[float] = FACTORS) -> tuple[float, Improvement]:
    """The factor on the vectors' length with the lowest loss, and the vectors times it."""
    scaled = {factor: {name: value * factor for name, value in vectors.items()} for factor in factors}
    reference = losses(vectors)
    changes = {factor: paired_difference(losses(value), reference) for factor, value in scaled.items()}
    factor = min(factors, key=lambda factor: changes[factor].mean)
    sentence = f"at {factor:g} times its strength the word fits best"
    return factor, Improvement(scaled[factor], changes[factor], sentence)


def _count(vectors: Vectors) -> int:
    return len(next(iter(vectors.values())))


def _without(vectors: Vectors, index: int) -> Vectors:
    return {name: torch.cat([value[:index], value[index + 1 :]]) for name, value in vectors.items()}
