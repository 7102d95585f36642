"""Pictures that a training shows: its previews, with the same prompts and seeds at every step, and the sampling of any others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_ti.data.captions import PreviewPrompt, preview_prompts, prompts_of_tests
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.memory.modes import reduce_vae_memory
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.sampling import NonFiniteImage, SamplingParams, sample
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.oom_recovery import free_memory, is_oom_error
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState

OOM_WARNING = (
    "there was not enough memory for {}s, and the training goes on without some of them; try smaller ones, with "
    "--preview-width and --preview-height"
)


Request = tuple[PreviewPrompt, int]
"""An image to sample: its prompts, and its seed."""


@dataclass(frozen=True)
class SampledImage:
    """An image that carries its generation parameters in its PNG file, as those of A1111 do."""

    image: Image.Image
    infotext: str

    def save(self, fp: Path, format: str) -> None:
        info = PngInfo()
        info.add_text("parameters", self.infotext)
        self.image.save(fp, format, pnginfo=info)


@dataclass
class ImageSampler:
    """Samples images with a training's vectors, by the settings of its previews."""

    state: TrainState
    model: StableDiffusion
    placeholder: Placeholder
    recorder: Recorder
    stop_requested: Callable[[], bool]
    durations_s: list[float] = field(default_factory=list)  # of each image so far
    _failures: set[str] = field(default_factory=set)  # warned of once

    def sample(
        self, requests: Sequence[Request], vectors: Mapping[str, torch.Tensor], noun: str
    ) -> Iterator[tuple[int, SampledImage]]:
        """Yield the index of each request and its image, without those that cannot be made, which a warning explains.

        `noun`: what the warning calls such an image.
        Raises sampling.Interrupted when the training is stopped meanwhile.
        """
        self.model.release_cached_memory()
        conditioner = Conditioner(self.model, [self.placeholder], vectors)
        for i, request in enumerate(requests):
            started = time.monotonic()
            self.recorder.event("sampling", done=i, total=len(requests), noun=noun)
            try:
                image = self._sample_in_less_memory(conditioner, request)
            except NonFiniteImage as error:
                message = f"there is no {noun} of {request[0].prompt!r}"
                if message not in self._failures:
                    self._failures.add(message)
                    self.recorder.event("warning", message=f"{message}: {error}")
                continue
            if image is None:
                self.recorder.event("warning", message=OOM_WARNING.format(noun))
                return
            self.durations_s.append(time.monotonic() - started)
            yield i, image

    def _sample_in_less_memory(self, conditioner: Conditioner, request: Request) -> SampledImage | None:
        """The image; repeated with less memory for the VAE if it runs out, and None if that does not help."""
        for memory_reduced in (self.model.offload_text_encoders, True):
            try:
                return self._sample_one(conditioner, request)
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
            free_memory()
            if memory_reduced:
                break
            reduce_vae_memory(self.model)
        return None

    def _sample_one(self, conditioner: Conditioner, request: Request) -> SampledImage:
        settings = self.state.settings
        sampling = _sampling_params(settings)
        texts, seed = request
        image = sample(
            guide(conditioner, texts.prompt, texts.negative_prompt, sampling.steps), seed, sampling, self.stop_requested
        )
        infotext = sampling.infotext(texts.prompt, texts.negative_prompt, seed, settings.model.stem)
        return SampledImage(image, infotext)


def _sampling_params(settings: TrainSettings) -> SamplingParams:
    side = settings.resolution or 512
    return SamplingParams(
        settings.preview_sampler,
        settings.preview_steps,
        settings.preview_guidance,
        settings.preview_width or side,
        settings.preview_height or side,
    )


@dataclass
class Previews:
    """Makes the previews of one training."""

    sampler: ImageSampler
    _constant_images: set[tuple[int, int]] = field(default_factory=set)  # by prompt and seed index: made once

    def make(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """Sample every prompt with every seed; skip with a warning what lacks memory or is not finite.

        Raises sampling.Interrupted when the training is stopped meanwhile.
        """
        indices = [index for index in self._requests() if index not in self._constant_images]
        requests = [self._requests()[index] for index in indices]
        for place, image in self.sampler.sample(requests, vectors, "preview"):
            (i, j), (texts, seed) = indices[place], requests[place]
            self.sampler.recorder.preview(
                image,
                step if texts.changes else 0,
                i,
                j,
                prompt=texts.prompt,
                negative_prompt=texts.negative_prompt,
                seed=seed,
            )
            if not texts.changes:
                self._constant_images.add((i, j))

    def _requests(self) -> dict[tuple[int, int], Request]:
        """The images of a step by prompt index and seed index."""
        settings = self.sampler.state.settings
        return {
            (i, j): (texts, seed)
            for i, texts in enumerate(preview_prompts(settings))
            for j, seed in enumerate(settings.preview_seed)
        }

    def seconds_left(self, end: int) -> float:
        """Expected duration of the previews up to step `end` and of the test pictures, from the mean of the images so far."""
        settings, durations_s = self.sampler.state.settings, self.sampler.durations_s
        if not settings.preview_every or not durations_s:
            return 0.0
        rounds = (end - self.sampler.state.step) / settings.preview_every
        changing = sum(texts.changes for texts, _ in self._requests().values())
        images = rounds * changing + len(prompts_of_tests(settings))
        return images * sum(durations_s) / len(durations_s)
