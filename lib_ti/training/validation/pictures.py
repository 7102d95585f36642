"""The pictures that a training is validated on: some that it is not trained on or, where there are few, those mirrored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
)


@dataclass(frozen=True)
class ValidationPicture:
    """An example and its latents."""

    example: Example
    latents: LatentDistribution


@dataclass(frozen=True)
class PictureSplit:
    """`trained`: the examples that a training sees; `validated`: those it is measured on, and whether to mirror each.

    `triples`: of the validation set, 0 if there is none; `subject`: what `validated` are, for sentences.
    """

    trained: Sequence[Example]
    validated: Sequence[tuple[Example, bool]]
    triples: int
    subject: str


def split_pictures(examples: Sequence[Example], settings: TrainSettings, triples: int | None) -> PictureSplit:
    """Divide a run's pictures; `triples`: of a validation set that the run has begun with."""
    budget = plan_validations(settings.steps, settings.effective_batch_size, settings.validate_every)
    if not budget.interval:
        return PictureSplit(examples, [], 0, "")
    budget = replace(budget, triples=triples or budget.triples)
    if held_back := held_back_indices(len(examples), settings.seed):
        trained = [example for i, example in enumerate(examples) if i not in held_back]
        validated = [(examples[i], False) for i in sorted(held_back)]
        return PictureSplit(trained, validated, budget.triples, "pictures that are not trained on")
    subject = "the pictures" if settings.flip else "the mirrored pictures"
    return PictureSplit(examples, mirrored(examples, budget.pictures, settings), budget.triples, subject)


def held_back_indices(count: int, seed: int) -> frozenset[int]:
    """Which of `count` pictures are not trained on: a tenth, but none where there are few."""
    if count < HOLD_BACK_FROM:
        return frozenset()
    held_back = max(MIN_HELD_BACK, min(MAX_HELD_BACK, round(HELD_BACK_SHARE * count)))
    return frozenset(random.Random(derive_seed(seed, "held back")).sample(range(count), held_back))


def mirrored(examples: Sequence[Example], count: int, settings: TrainSettings) -> list[tuple[Example, bool]]:
    """At most `count` examples, chosen at random, to be mirrored: the nearest to pictures that are not trained on.

    Where training mirrors them too, they are taken as they are, and only their noise and timesteps are new.
    """
    rng = random.Random(derive_seed(settings.seed, "validated"))
    return [(example, not settings.flip) for example in rng.sample(examples, min(count, len(examples)))]
