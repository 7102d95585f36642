"""Signs that a checkpoint predicts something else than it is trained for: epsilon instead of v, or the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.training.dataloader import Batch

MAX_UNEXPLAINED = 0.5  # share of a target's variance; a prediction that leaves less of it unexplained was meant for it
CHECKED_STEP, MAX_LOSS = 5, 4.0  # a model that predicts nothing at all has a mean loss of about 1

_TITLES = {"epsilon": "the noise (epsilon)", "v": "v"}


@torch.no_grad()
def check_prediction_type(model: StableDiffusion, batch: Batch, vectors: Mapping[str, torch.Tensor]) -> str | None:
    """A warning if the model's predictions, at the middle timestep, fit the prediction type better that is not trained."""
    t = torch.full_like(batch.t, model.noise_schedule.num_train_timesteps // 2)
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, t)
    prediction = model.predict(noisy, t, model.encode_prompts(batch.prompts, vectors), batch.time_ids)
    unexplained = {}
    for name in _TITLES:
        target = replace(model.noise_schedule, prediction_type=name).target(batch.latents, batch.noise, t)
        unexplained[name] = float((prediction - target).square().mean() / target.square().mean())
    trained, nearest = model.noise_schedule.prediction_type, min(unexplained, key=lambda name: unexplained[name])
    if not unexplained[nearest] < MAX_UNEXPLAINED * min(1.0, unexplained[trained]):
        return None
    return (
        f"this checkpoint seems to predict {_TITLES[nearest]}, but is trained on as if it predicted {_TITLES[trained]}: its "
        f"losses would be far too high and little would be learned; stop, and start anew with --prediction {nearest}"
    )


def check_loss(step: int, smoothed_loss: float) -> str | None:
    """A warning if the mean loss of the first steps is one that no working model has."""
    if step != CHECKED_STEP or smoothed_loss <= MAX_LOSS:
        return None
    return (
        f"the losses of the first steps are {smoothed_loss:.1f}, far above 1: what this checkpoint predicts is probably not "
        "what it is trained for (see --prediction), or its files are damaged"
    )
