"""One optimizer update: the loss of a global batch, its gradient in the vectors, the optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from lib_ti.errors import TrainingFailed
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import Batch
from lib_ti.training.optimization.contrast import ContrastBatch, contrast_losses
from lib_ti.training.optimization.loss import min_snr_weight, pointwise_loss
from lib_ti.training.state import TrainState


class NonFinite(TrainingFailed):
    """Numbers are no longer finite in a training that has made an update already.

    `what`: which, for a sentence. `in_model`: they overflowed or failed in the frozen model, whose precision may be the cause.
    """

    def __init__(self, what: str, message: str, in_model: bool = False) -> None:
        super().__init__(message)
        self.what, self.in_model = what, in_model


def losses(model: StableDiffusion, batch: Batch, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean squared error of each prediction, (b,): Ho et al. 2020, eq. 14, weighted by the mask."""
    return _mean(_errors(model, batch, vectors).square(), batch)


def training_losses(
    model: StableDiffusion, batch: Batch | ContrastBatch, vectors: Mapping[str, torch.Tensor], settings: TrainSettings
) -> torch.Tensor:
    """What a step minimizes, (b,): `losses`, or what the settings ask for instead."""
    if isinstance(batch, ContrastBatch):
        return contrast_losses(model, batch, vectors)
    result = _mean(pointwise_loss(_errors(model, batch, vectors), settings), batch)
    if settings.min_snr_gamma:
        result = result * min_snr_weight(model.noise_schedule, batch.t, settings.min_snr_gamma)
    return result


def _errors(model: StableDiffusion, batch: Batch, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Prediction minus target, (b, c, h, w)."""
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, batch.t)
    # Compute the target first: indexing by `t` synchronizes the GPU.
    target = model.noise_schedule.target(batch.latents, batch.noise, batch.t)
    context = model.encode_prompts(batch.prompts, vectors)
    return model.predict(noisy, batch.t, context, batch.time_ids) - target


def _mean(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean over each image (b, c, h, w), weighted by its mask."""
    return (values if batch.weight is None else values * batch.weight).mean(dim=(1, 2, 3))


def update(
    state: TrainState,
    model: StableDiffusion,
    micro_batches: Iterable[Batch | ContrastBatch],
    lr: float | Mapping[str, float],
) -> float:
    """Take one step on the micro-batches of a global batch and return its loss.

    The gradient is that of the mean over the global batch, however it is split. `lr`: for all vectors, or by text encoder.
    Raises TrainingFailed if the vectors get no gradient, or if numbers are not finite: NonFinite if they once were.
    """
    settings, parameters = state.settings, state.trainable
    total = torch.zeros((), device=model.device)
    for batch in micro_batches:
        loss = training_losses(model, batch, state.vectors, settings).sum() / settings.effective_batch_size
        (loss * state.scaler.scale).backward()
        total += loss.detach()
    value = float(total)
    if not math.isfinite(value):
        updated = bool(state.optimizer.state)
        message = f"the loss of step {state.step + 1} is not a number; {_advice(model.dtype, updated)}"
        raise NonFinite("the loss", message, in_model=True) if updated else TrainingFailed(message)
    if state.scaler.unscale(parameters):
        _check_gradient(parameters, state.step, not state.optimizer.state, model.dtype)
        _clip_gradient(parameters, settings.clip, settings.clip_at)
        for group in state.optimizer.param_groups:
            group["lr"] = lr if isinstance(lr, float) else lr[group["encoder"]]
        state.optimizer.step()
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            message = f"the vectors are no numbers any more after step {state.step + 1}; try a lower learning rate"
            raise NonFinite("the result", message)
    elif state.scaler.consecutive_overflows > state.scaler.MAX_CONSECUTIVE_OVERFLOWS:
        message = f"fp16 overflows at every step up to {state.step + 1}; {_advice(model.dtype)}"
        raise NonFinite("the gradient", message, in_model=True) if state.optimizer.state else TrainingFailed(message)
    state.optimizer.zero_grad(set_to_none=True)
    state.record_step(value)
    return value


def _check_gradient(
    parameters: Sequence[torch.nn.Parameter], step: int, first_update: bool, dtype: torch.dtype
) -> None:
    """Raise TrainingFailed where nothing could be learned: no gradient, a zero one at the first update, or a non-finite one."""
    for parameter in parameters:
        if parameter.grad is None or (first_update and not bool(parameter.grad.any())):
            raise TrainingFailed(
                "the vectors get no gradient, so nothing would be learned; this checkpoint cannot be trained on"
            )
        if not bool(torch.isfinite(parameter.grad).all()):
            message = f"the gradient of step {step + 1} is not a number; {_advice(dtype)}"
            raise TrainingFailed(message) if first_update else NonFinite("the gradient", message)


def _advice(dtype: torch.dtype, updated: bool = True) -> str:
    """What the user can try. Before the vectors have been `updated`, the learning rate cannot be the cause."""
    if not updated:
        damaged = "the checkpoint's or the VAE's file is damaged"
        return damaged if dtype == torch.float32 else f"try --precision fp32; if that does not help, {damaged}"
    return "try a lower learning rate" if dtype == torch.float32 else "try --precision fp32, or a lower learning rate"


def _clip_gradient(parameters: Sequence[torch.nn.Parameter], mode: str, limit: float) -> None:
    if mode == "norm":
        torch.nn.utils.clip_grad_norm_(parameters, limit)
    elif mode == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
