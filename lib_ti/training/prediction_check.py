"""Signs that a training goes wrong from its first steps: the checkpoint predicts something else than it is trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.training.dataloader import BatchSource

LOOKED_AT = 2  # pictures
CLEARLY = 0.5  # of a target's variance; a prediction that leaves less of it unexplained was meant for that target
EARLY, TOO_HIGH = 5, 4.0  # steps, and their mean loss; a model that says nothing at all has about 1

_TITLES = {"epsilon": "the noise (epsilon)", "v": "v"}


@torch.no_grad()
def check_prediction_type(
    model: StableDiffusion, source: BatchSource, pictures: list[int], vectors: Mapping[str, torch.Tensor]
) -> str | None:
    """A sentence if the model's prediction, half-way through the noise, is rather of the kind it is not trained for."""
    batch = source.draw(0, pictures[:LOOKED_AT], 0, model.device)
    t = torch.full_like(batch.t, model.noise_schedule.num_train_timesteps // 2)
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, t)
    predicted = model.predict(noisy, t, model.encode_prompts(batch.prompts, vectors), batch.frames)
    unexplained = {}
    for name in _TITLES:
        target = replace(model.noise_schedule, prediction_type=name).target(batch.latents, batch.noise, t)
        unexplained[name] = float((predicted - target).square().mean() / target.square().mean())
    used, nearest = model.noise_schedule.prediction_type, min(unexplained, key=lambda name: unexplained[name])
    if not unexplained[nearest] < CLEARLY * min(1.0, unexplained[used]):
        return None
    return (
        f"this checkpoint seems to predict {_TITLES[nearest]}, but is trained on as if it predicted {_TITLES[used]}: its losses "
        f"would be far too high and little would be learned; stop, and start anew with --prediction {nearest}"
    )


def too_high(step: int, loss: float) -> str | None:
    """A sentence if the mean loss of the first steps is what no working model has."""
    if step != EARLY or loss <= TOO_HIGH:
        return None
    return (
        f"the losses of the first steps are {loss:.1f}, far above 1: what this checkpoint predicts is probably not what it is "
        "trained for (see --prediction), or its files are damaged"
    )
