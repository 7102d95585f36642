"""Pictures from prompts.

The samplers are diffusers'; the guidance is Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.noise import Noise
from lib_ti.model.prompts import Prompt


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


def _scheduler(name: str, noise: Noise) -> Any:
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
def sample(
    model: StableDiffusion,
    prompt: Prompt,
    negative: Prompt,
    vectors: Mapping[str, torch.Tensor],
    seed: int,
    how: Sampling,
    stopped: Callable[[], bool] = lambda: False,
) -> Image.Image:
    """One picture. The noise comes from the CPU's generator, so a seed means the same on every device.

    Raises Interrupted when `stopped` says so, asked at each step.
    """
    generator = torch.Generator().manual_seed(seed)
    scheduler = _scheduler(how.sampler, model.noise)
    scheduler.set_timesteps(how.steps)
    shape = (1, model.latent_channels, how.height // model.factor, how.width // model.factor)
    latents = torch.randn(shape, generator=generator).to(model.device) * scheduler.init_noise_sigma
    guided = how.guidance != 1.0
    context = model.encode_prompts([negative, prompt] if guided else [prompt], vectors)
    if guided and model.blank_empty and negative.empty:
        context = context.blanked(0)
    for t in scheduler.timesteps:
        if stopped():
            raise Interrupted
        noisy = scheduler.scale_model_input(latents, t)
        if guided:
            without, with_prompt = model.predict(noisy.expand(2, -1, -1, -1), t.expand(2), context).chunk(2)
            predicted = without + how.guidance * (with_prompt - without)
        else:
            predicted = model.predict(noisy, t.expand(1), context)
        extra = {} if how.sampler == "ddim" else {"generator": generator}
        latents = scheduler.step(predicted, t, latents, **extra).prev_sample
    with model.vae_at_hand():
        pixels = model.decode_latents(latents)[0]
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array), "RGB")
