"""The optimizers of the vectors, all from torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib_ti.settings.train_settings import TrainSettings

BETA2 = 0.999


def create_optimizer(groups: Sequence[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name; the learning rate is set at each step.

    Adam's first moment is short by default: the gradient of a single image is mostly noise, and momentum of 0.9 carries each
    one's on for ten steps, which in a training of fifty leads the vectors away before they have found the concept.
    """
    betas, decay = (settings.adam_beta1, BETA2), settings.weight_decay
    if settings.optimizer == "nadam":
        return torch.optim.NAdam(groups, betas=betas, weight_decay=decay, foreach=False)
    if settings.optimizer == "radam":
        return torch.optim.RAdam(groups, betas=betas, weight_decay=decay, foreach=False)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=decay, foreach=False)
