"""Paired comparison of losses that were measured on the same triples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_Z = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class PairedDifference:
    """The mean of `count` paired differences and its standard error.

    The error is overestimated: timesteps are stratified, so part of what differs between triples does not vary by chance.
    """

    mean: float
    standard_error: float
    count: int

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % confidence interval."""
        return t_quantile(self.count - 1) * self.standard_error if self.count > 1 else 0.0

    @property
    def is_above_zero(self) -> bool:
        """Significantly, at the 95 % level."""
        return self.mean > self.interval


def paired_difference(losses: torch.Tensor, reference: torch.Tensor) -> PairedDifference:
    """How `losses` differ from `reference`, both (triples,); triples that either has no number for do not count."""
    differences = (losses - reference).double()
    differences = differences[differences.isfinite()]
    count = len(differences)
    error = float(differences.std()) / math.sqrt(count) if count > 1 else 0.0
    return PairedDifference(float(differences.mean()) if count else 0.0, error, count)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution, within 1 % from 3 degrees of freedom on.

    Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = _Z
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3
