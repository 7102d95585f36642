"""Sample images with diffusers' schedulers."""

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
class SamplingParams:
    """How an image is sampled. `guidance`: the scale of classifier-free guidance. `width`, `height`: in pixels."""

    sampler: str
    steps: int
    guidance: float
    width: int
    height: int

    def infotext(self, prompt: str, negative: str, seed: int, model: str) -> str:
        """The image's parameters in the WebUIs' format, which they store in PNG files under "parameters"."""
        return (
            f"{prompt}\nNegative prompt: {negative}\nSteps: {self.steps}, Sampler: {self.sampler}, "
            f"CFG scale: {self.guidance:g}, Seed: {seed}, Size: {self.width}x{self.height}, Model: {model}"
        )


class Interrupted(Exception):
    """Sampling was stopped by the caller."""


class NonFiniteImage(TextualInversionError):
    """The decoded image contains NaN or infinity; saved, it would be a black image."""


def _build_scheduler(name: str, schedule: NoiseSchedule) -> Any:
    common = {
        "num_train_timesteps": schedule.num_train_timesteps,
        "trained_betas": schedule.betas.numpy(),
        "prediction_type": {"epsilon": "epsilon", "v": "v_prediction"}[schedule.prediction_type],
    }
    if schedule.zero_terminal_snr and schedule.prediction_type == "v":  # must start at the last timestep: pure noise
        common |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if name == "euler":
        return EulerDiscreteScheduler(**common)
    if name == "euler a":
        return EulerAncestralDiscreteScheduler(**common)
    if name == "ddim":
        return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True)


@torch.no_grad()
def sample(
    guidance: Guidance, seed: int, params: SamplingParams, stopped: Callable[[], bool] = lambda: False
) -> Image.Image:
    """One image. The noise comes from the CPU's generator, so that a seed gives the same image on every device.

    `stopped` is polled at each step. Raises Interrupted if it returns true, and NonFiniteImage.
    """
    model = guidance.model
    generator = torch.Generator().manual_seed(seed)
    scheduler = _build_scheduler(params.sampler, model.noise_schedule)
    scheduler.set_timesteps(params.steps)
    height, width = params.height // model.vae_scale_factor, params.width // model.vae_scale_factor
    noise = torch.randn((1, model.latent_channels, height, width), generator=generator)
    latents = noise.to(model.device) * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        if stopped():
            raise Interrupted
        noisy = scheduler.scale_model_input(latents, t)
        prediction = guidance.predict(noisy, t, step, params.guidance)
        extra = {} if params.sampler == "ddim" else {"generator": generator}
        latents = scheduler.step(prediction, t, latents, **extra).prev_sample
    with model.vae_on_device():
        pixels = model.decode_latents(latents)[0]
    if not bool(torch.isfinite(pixels).all()):
        raise NonFiniteImage(
            "the picture is not made of numbers: try --precision fp32 and weights nearer to 1 in the prompt; if that does not "
            "help, the checkpoint's or an embedding's file is damaged"
        )
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array), "RGB")
