"""The diffusion process: how noise is added, and what a model predicts of it.

Ho et al., "Denoising Diffusion Probabilistic Models", 2020; v-prediction from Salimans & Ho, "Progressive Distillation",
2022; zero terminal SNR from Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024. ᾱ_t is the
share of a picture's variance that is left at time t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class NoiseSchedule:
    """A schedule of `steps` betas whose square roots rise linearly, and the model's prediction: epsilon or v.

    `zero_terminal_snr`: it is stretched so that nothing of the picture is left at the last time.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    last_beta: float = 0.012
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False

    @cached_property
    def betas(self) -> torch.Tensor:
        """(steps,) fp64, before any stretching"""
        return torch.linspace(self.beta_start**0.5, self.last_beta**0.5, self.steps, dtype=torch.float64) ** 2

    @cached_property
    def alphas(self) -> torch.Tensor:
        """ᾱ, (steps,) fp64"""
        alphas = torch.cumprod(1 - self.betas, 0)
        if not self.zero_terminal_snr:
            return alphas
        roots = alphas.sqrt()  # Lin et al., algorithm 1: the first stays, the last becomes 0
        stretched: torch.Tensor = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
        return stretched.square()

    def add(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = √ᾱ x₀ + √(1 - ᾱ) ε for latents and noise (b, c, h, w) and times t (b,)."""
        alpha = self._at(t, latents)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model should say of x_t: ε, or v = √ᾱ ε - √(1 - ᾱ) x₀."""
        if self.prediction == "epsilon":
            return noise
        alpha = self._at(t, latents)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def _at(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return self.alphas[t.cpu()].to(like.device, like.dtype).view(-1, 1, 1, 1)
