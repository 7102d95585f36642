"""The forward diffusion process and the model's training target.

Ho et al., "Denoising Diffusion Probabilistic Models", 2020; v-prediction from Salimans & Ho, "Progressive Distillation for
Fast Sampling of Diffusion Models", 2022; zero terminal SNR from Lin et al., "Common Diffusion Noise Schedules and Sample
Steps are Flawed", 2024. Names follow diffusers' schedulers; alphas_cumprod is the papers' ᾱ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class NoiseSchedule:
    """The "scaled linear" schedule: the square roots of the betas rise linearly.

    `prediction_type`: "epsilon" or "v". `zero_terminal_snr`: rescale the schedule so that x_T is pure noise.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False

    @cached_property
    def betas(self) -> torch.Tensor:
        """(num_train_timesteps,) fp64, before rescaling to zero terminal SNR."""
        steps = self.num_train_timesteps
        return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, steps, dtype=torch.float64) ** 2

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ_t, (num_train_timesteps,) fp64."""
        alphas_cumprod = torch.cumprod(1 - self.betas, 0)
        if not self.zero_terminal_snr:
            return alphas_cumprod
        sqrt = alphas_cumprod.sqrt()  # Lin et al., algorithm 1: keep the first value, shift the last one to 0
        rescaled: torch.Tensor = (sqrt - sqrt[-1]) * (sqrt[0] / (sqrt[0] - sqrt[-1]))
        return rescaled.square()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε for latents and noise (b, c, h, w) and timesteps t (b,)."""
        alpha = self._alpha(t, latents)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The training target: ε, or v = √ᾱ_t ε - √(1 - ᾱ_t) x₀."""
        if self.prediction_type == "epsilon":
            return noise
        alpha = self._alpha(t, latents)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def _alpha(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """ᾱ_t as (b, 1, 1, 1) with the device and dtype of `like`."""
        return self.alphas_cumprod[t.cpu()].to(like.device, like.dtype).view(-1, 1, 1, 1)
