"""Previews: images sampled with the current vectors, with the same prompts and seeds at every step for comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_ti.data.captions import preview_prompts
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.memory.modes import reduce_vae_memory
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.sampling import NonFiniteImage, SamplingParams, sample
from lib_ti.settings.train_settings import NAME_SLOT
from lib_ti.training.oom_recovery import free_memory, is_oom_error
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState

OOM_WARNING = (
    "there was not enough memory for previews, and the training goes on without some of them; try smaller ones, with "
    "--preview-width and --preview-height"
)


@dataclass(frozen=True)
class PreviewImage:
    """An image that carries its generation parameters in its PNG file, as those of A1111 do."""

    image: Image.Image
    infotext: str

    def save(self, fp: Path, format: str) -> None:
        info = PngInfo()
        info.add_text("parameters", self.infotext)
        self.image.save(fp, format, pnginfo=info)


@dataclass
class Previews:
    """Makes the previews of one training."""

    state: TrainState
    model: StableDiffusion
    placeholder: Placeholder
    recorder: Recorder
    stop_requested: Callable[[], bool]
    _durations_s: list[float] = field(default_factory=list)
    _failed_prompts: set[str] = field(default_factory=set)  # warned of once

    def make(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """Sample every prompt with every seed; on a lack of memory skip them with a warning.

        Raises sampling.Interrupted when the training is stopped meanwhile.
        """
        for memory_reduced in (self.model.offload_text_encoders, True):
            try:
                return self._sample_all(step, vectors)
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
            free_memory()
            if memory_reduced:
                break
            reduce_vae_memory(self.model)
        self.recorder.event("warning", message=OOM_WARNING)

    def _sample_all(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        self.model.release_cached_memory()
        settings = self.state.settings
        side = settings.resolution or 512
        sampling = SamplingParams(
            settings.preview_sampler,
            settings.preview_steps,
            settings.preview_guidance,
            settings.preview_width or side,
            settings.preview_height or side,
        )
        prompts = [self._fill_name(prompt) for prompt in preview_prompts(settings)]
        negative_prompt = self._fill_name(settings.preview_negative_prompt)
        conditioner = Conditioner(self.model, [self.placeholder], vectors)
        started = time.monotonic()
        for (i, prompt), (j, seed) in product(enumerate(prompts), enumerate(settings.preview_seed)):
            try:
                guided = guide(conditioner, prompt, negative_prompt, sampling.steps)
                image = sample(guided, seed, sampling, self.stop_requested)
            except NonFiniteImage as error:
                if prompt not in self._failed_prompts:
                    self._failed_prompts.add(prompt)
                    self.recorder.event("warning", message=f"there is no preview of {prompt!r}: {error}")
                continue
            infotext = sampling.infotext(prompt, negative_prompt, seed, settings.model.stem)
            self.recorder.preview(PreviewImage(image, infotext), step, i, j, prompt=prompt, seed=seed)
        self._durations_s.append(time.monotonic() - started)

    def _fill_name(self, prompt: str) -> str:
        return prompt.replace(NAME_SLOT, self.placeholder.name)

    def seconds_left(self) -> float:
        """Expected duration of the remaining previews, from the mean of those so far."""
        settings = self.state.settings
        if not settings.preview_every or not self._durations_s:
            return 0.0
        mean_s = sum(self._durations_s) / len(self._durations_s)
        return (settings.steps - self.state.step) / settings.preview_every * mean_s
