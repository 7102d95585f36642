"""Pictures from prompts.

The samplers are diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image

from lib_ti.errors import TextualInversionError
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.guidance import Guidance


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled. `width`, `height` in pixels."""

    sampler: str
    steps: int
    guidance: float
    width: int
    height: int

    def infotext(self, prompt: str, negative: str, seed: int, model: str) -> str:
        """What made a picture, as the WebUIs write it into PNG files under "parameters" and read it back."""
        return (
            f"{prompt}\nNegative prompt: {negative}\nSteps: {self.steps}, Sampler: {self.sampler}, "
            f"CFG scale: {self.guidance:g}, Seed: {seed}, Size: {self.width}x{self.height}, Model: {model}"
        )


class Interrupted(Exception):
    """The sampling was asked to stop."""


class NotNumbers(TextualInversionError):
    """What was computed is no picture, and a black one would hide that."""


def _scheduler(name: str, noise: NoiseSchedule) -> Any:
    common = {
        "num_train_timesteps": noise.steps,
        "trained_betas": noise.betas.numpy(),
        "prediction_type": {"epsilon": "epsilon", "v": "v_prediction"}[noise.prediction],
    }
    if (
        noise.zero_terminal_snr and noise.prediction == "v"
    ):  # it knows pure noise, and has to be given it: the last time
        common |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if name == "euler":
        return EulerDiscreteScheduler(**common)
    if name == "euler a":
        return EulerAncestralDiscreteScheduler(**common)
    if name == "ddim":
        return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True)


@torch.no_grad()
def sample(guidance: Guidance, seed: int, how: Sampling, stopped: Callable[[], bool] = lambda: False) -> Image.Image:
    """One picture. The noise comes from the CPU's generator, so a seed means the same on every device.

    Raises Interrupted when `stopped` says so, asked at each step; NotNumbers.
    """
    model = guidance.model
    generator = torch.Generator().manual_seed(seed)
    scheduler = _scheduler(how.sampler, model.noise)
    scheduler.set_timesteps(how.steps)
    shape = (1, model.latent_channels, how.height // model.factor, how.width // model.factor)
    latents = torch.randn(shape, generator=generator).to(model.device) * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        if stopped():
            raise Interrupted
        noisy = scheduler.scale_model_input(latents, t)
        predicted = guidance.predict(noisy, t, step, how.guidance)
        extra = {} if how.sampler == "ddim" else {"generator": generator}
        latents = scheduler.step(predicted, t, latents, **extra).prev_sample
    with model.vae_on_device():
        pixels = model.decode_latents(latents)[0]
    if not bool(torch.isfinite(pixels).all()):
        raise NotNumbers(
            "the picture is not made of numbers: try --precision fp32 and weights nearer to 1 in the prompt; if that does not "
            "help, the checkpoint's or an embedding's file is damaged"
        )
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array), "RGB")
