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
    _durations_s: list[float] = field(default_factory=list)  # of the rounds, in seconds per image
    _failed_prompts: set[str] = field(default_factory=set)  # warned of once
    _constant_images: set[tuple[int, int]] = field(default_factory=set)  # by prompt and seed index: made once

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
        conditioner = Conditioner(self.model, [self.placeholder], vectors)
        started, image_count = time.monotonic(), 0
        for (i, texts), (j, seed) in product(enumerate(preview_prompts(settings)), enumerate(settings.preview_seed)):
            if (i, j) in self._constant_images:
                continue
            try:
                guided = guide(conditioner, texts.prompt, texts.negative_prompt, sampling.steps)
                image = sample(guided, seed, sampling, self.stop_requested)
            except NonFiniteImage as error:
                if texts.prompt not in self._failed_prompts:
                    self._failed_prompts.add(texts.prompt)
                    self.recorder.event("warning", message=f"there is no preview of {texts.prompt!r}: {error}")
                continue
            infotext = sampling.infotext(texts.prompt, texts.negative_prompt, seed, settings.model.stem)
            self.recorder.preview(
                PreviewImage(image, infotext),
                step if texts.changes else 0,
                i,
                j,
                prompt=texts.prompt,
                negative_prompt=texts.negative_prompt,
                seed=seed,
            )
            image_count += 1
            if not texts.changes:
                self._constant_images.add((i, j))
        if image_count:
            self._durations_s.append((time.monotonic() - started) / image_count)

    def seconds_left(self) -> float:
        """Expected duration of the remaining previews, from the mean of those so far."""
        settings = self.state.settings
        if not settings.preview_every or not self._durations_s:
            return 0.0
        mean_s = sum(self._durations_s) / len(self._durations_s)
        prompts = [prompt for prompt in preview_prompts(settings) if prompt.changes]
        round_s = mean_s * len(prompts) * len(settings.preview_seed)
        return (settings.steps - self.state.step) / settings.preview_every * round_s
