"""One update: the loss of a batch, its gradient in the vectors, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lib_ti.errors import TrainingFailed
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.training.dataloader import Batch, BatchSource
from lib_ti.training.state import TrainState


def losses(model: StableDiffusion, batch: Batch, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean squared error of each prediction, (b,): Ho et al. 2020, eq. 14, weighted over places by the mask."""
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, batch.t)
    # before the prediction, as it looks at the times: a card would be waited for until all that is queued is done
    target = model.noise_schedule.target(batch.latents, batch.noise, batch.t)
    context = model.encode_prompts(batch.prompts, vectors)
    error = model.predict(noisy, batch.t, context, batch.frames) - target
    squared = error.square() if batch.weight is None else error.square() * batch.weight
    return squared.mean(dim=(1, 2, 3))


def update(
    state: TrainState,
    model: StableDiffusion,
    source: BatchSource,
    pictures: Sequence[int],
    micro_batch: int,
    rate: float | Mapping[str, float],
    clip: str = "none",
    clip_at: float = 1.0,
) -> float:
    """Take one step on the global batch `pictures`, `micro_batch` at a time, and return its loss.

    The gradient is that of the mean over the global batch, however it is split. `rate`: for all vectors, or by text encoder.
    Raises TrainingFailed where the loss is not a number or the vectors get no gradient.
    """
    parameters = state.trained
    total = torch.zeros((), device=model.device)
    for first in range(0, len(pictures), micro_batch):
        batch = source.draw(state.step, pictures[first : first + micro_batch], first, model.device)
        loss = losses(model, batch, state.vectors).sum() / len(pictures)
        (loss * state.scaler.scale).backward()
        total += loss.detach()
    value = float(total)
    if not math.isfinite(value):
        advice = _advice(model.dtype, learned=bool(state.optimizer.state))
        raise TrainingFailed(f"the loss of step {state.step + 1} is not a number; {advice}")
    if state.scaler.accept(parameters):
        _check_gradient(parameters, state.step, not state.optimizer.state, model.dtype)
        _clip(parameters, clip, clip_at)
        for group in state.optimizer.param_groups:
            group["lr"] = rate if isinstance(rate, float) else rate[group["encoder"]]
        state.optimizer.step()
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise TrainingFailed(
                f"the vectors are no numbers any more after step {state.step + 1}; try a lower learning rate"
            )
    elif state.scaler.overflows > state.scaler.GIVE_UP_AFTER:
        raise TrainingFailed(f"fp16 overflows at every step up to {state.step + 1}; {_advice(model.dtype)}")
    state.optimizer.zero_grad(set_to_none=True)
    state.observe(value)
    return value


def _check_gradient(parameters: Sequence[torch.nn.Parameter], step: int, first: bool, dtype: torch.dtype) -> None:
    """A step that cannot learn must not pass for one that does. `first`: no update has been made yet."""
    for parameter in parameters:
        if parameter.grad is None or (first and not bool(parameter.grad.any())):
            raise TrainingFailed(
                "the vectors get no gradient, so nothing would be learned; this checkpoint cannot be trained on"
            )
        if not bool(torch.isfinite(parameter.grad).all()):
            raise TrainingFailed(f"the gradient of step {step + 1} is not a number; {_advice(dtype)}")


def _advice(dtype: torch.dtype, learned: bool = True) -> str:
    """`learned`: whether the vectors have been updated yet; until then no learning rate can be to blame."""
    if not learned:
        damaged = "the checkpoint's or the VAE's file is damaged"
        return damaged if dtype == torch.float32 else f"try --precision fp32; if that does not help, {damaged}"
    return "try a lower learning rate" if dtype == torch.float32 else "try --precision fp32, or a lower learning rate"


def _clip(parameters: Sequence[torch.nn.Parameter], how: str, limit: float) -> None:
    if how == "norm":
        torch.nn.utils.clip_grad_norm_(parameters, limit)
    elif how == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
