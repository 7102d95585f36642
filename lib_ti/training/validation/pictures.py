"""The pictures that a training is validated on: some that it is not trained on or, where there are few, those that it is.

Mirrored pictures and other crops of the few would look like pictures that are not trained on, but they mislead: of a thing that
looks to one side the loss on mirrored pictures rises while the embedding gets better, and a zoomed one is another thing. New
noise and timesteps on the same pictures tell what is learned; what is learned by heart shows in them as a small improvement,
so that only larger ones count.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentDistribution
from lib_ti.randomness import derive_seed
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.validation.budget import plan_validations
from lib_ti.training.validation.constants import (
    HELD_BACK_SHARE,
    HOLD_BACK_FROM,
    MAX_HELD_BACK,
    MIN_HELD_BACK,
    MIN_IMPROVEMENT_HELD_BACK,
    MIN_IMPROVEMENT_TRAINED,
)


@dataclass(frozen=True)
class ValidationPicture:
    """An example and its latents."""

    example: Example
    latents: LatentDistribution


@dataclass(frozen=True)
class PictureSplit:
    """`trained`: the examples that a training sees; `held_back`: those it is measured on, none where there are few.

    `triples`: of the validation set, 0 if there is none. `subject`: what it shows, for sentences. `min_improvement`: see
    `history.ValidationHistory`.
    """

    trained: Sequence[Example]
    held_back: Sequence[Example] = ()
    triples: int = 0
    subject: str = ""
    min_improvement: float = 0.0


def split_pictures(examples: Sequence[Example], settings: TrainSettings, triples: int | None) -> PictureSplit:
    """Divide a run's pictures; `triples`: of a validation set that the run has begun with."""
    budget = plan_validations(settings.steps, settings.effective_batch_size, settings.validate_every)
    if not budget.interval:
        return PictureSplit(examples)
    triples = triples or budget.triples
    if indices := held_back_indices(len(examples), settings.seed):
        trained = [example for i, example in enumerate(examples) if i not in indices]
        held_back = [example for i, example in enumerate(examples) if i in indices]
        return PictureSplit(trained, held_back, triples, "pictures that are not trained on", MIN_IMPROVEMENT_HELD_BACK)
    return PictureSplit(examples, (), triples, "the pictures", MIN_IMPROVEMENT_TRAINED)


def held_back_indices(count: int, seed: int) -> frozenset[int]:
    """Which of `count` pictures are not trained on: a tenth, but none where there are few."""
    if count < HOLD_BACK_FROM:
        return frozenset()
    held_back = max(MIN_HELD_BACK, min(MAX_HELD_BACK, round(HELD_BACK_SHARE * count)))
    return frozenset(random.Random(derive_seed(seed, "held back")).sample(range(count), held_back))
