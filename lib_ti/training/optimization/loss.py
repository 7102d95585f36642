"""The loss of a prediction, and how much it counts at each timestep."""

from __future__ import annotations

import torch

from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.settings.train_settings import TrainSettings


def pointwise_loss(error: torch.Tensor, settings: TrainSettings) -> torch.Tensor:
    """The loss of each value of `error`: its square, or the pseudo-Huber loss, which is the same near zero.

    2δ(√(e² + δ²) - δ) (Charbonnier et al., 1994).
    """
    if settings.loss_type == "mse":
        return error.square()
    delta = settings.huber_delta
    return 2 * delta * ((error.square() + delta**2).sqrt() - delta)


def min_snr_weight(noise_schedule: NoiseSchedule, t: torch.Tensor, gamma: float) -> torch.Tensor:
    """The weight (b,) of losses at timesteps t (b,): Hang et al., "Efficient Diffusion Training via Min-SNR Weighting", 2023.

    min(SNR, γ) / SNR for ε, and min(SNR, γ) / (SNR + 1) for v. With zero terminal SNR the last weight of ε is 1.
    """
    alphas_cumprod = noise_schedule.alphas_cumprod[t.cpu()]
    snr = alphas_cumprod / (1 - alphas_cumprod)
    clamped = snr.clamp(max=gamma)
    weight = clamped / (snr + 1) if noise_schedule.prediction_type == "v" else (clamped / snr).nan_to_num(1.0)
    return weight.to(t.device, torch.float32)
