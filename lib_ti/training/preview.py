"""Pictures of what the word means so far: always the same prompts and seeds, so that steps can be compared."""

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
from lib_ti.settings.train_settings import NAME_SLOT, TrainSettings
from lib_ti.training.oom_recovery import give_back, is_oom_error
from lib_ti.training.recorder import Recorder

NO_ROOM = (
    "there was not enough memory for previews, and the training goes on without some of them; try smaller ones, with "
    "--preview-width and --preview-height"
)


@dataclass(frozen=True)
class Described:
    """A picture that says in its file what made it, in the way of the WebUIs."""

    image: Image.Image
    infotext: str

    def save(self, fp: Path, format: str) -> None:
        info = PngInfo()
        info.add_text("parameters", self.infotext)
        self.image.save(fp, format, pnginfo=info)


@dataclass
class Previews:
    """The previews of one training."""

    settings: TrainSettings
    model: StableDiffusion
    word: Placeholder
    recorder: Recorder
    stopped: Callable[[], bool]
    _spent: list[float] = field(default_factory=list)
    _missed: set[str] = field(default_factory=set)  # prompts that no picture could be made of

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(map(self._named, preview_prompts(self.settings)))

    def _named(self, prompt: str) -> str:
        return prompt.replace(NAME_SLOT, self.word.name)

    def make(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """Sample every prompt with every seed; where memory runs out they are left out, and a warning says so.

        Raises sampling.Interrupted when the training is stopped meanwhile.
        """
        for roomy in (self.model.offload_text_encoders, True):
            try:
                return self._make(step, vectors)
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
            give_back()
            if roomy:
                break
            reduce_vae_memory(self.model)
        self.recorder.event("warning", message=NO_ROOM)

    def _make(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        self.model.release_cached_memory()
        s = self.settings
        side = s.resolution or 512
        how = SamplingParams(
            s.preview_sampler, s.preview_steps, s.preview_guidance, s.preview_width or side, s.preview_height or side
        )
        unwanted = self._named(s.preview_negative_prompt)
        conditioner = Conditioner(self.model, [self.word], vectors)
        began = time.monotonic()
        for (i, prompt), (j, seed) in product(enumerate(self.prompts), enumerate(s.preview_seed)):
            try:
                image = sample(guide(conditioner, prompt, unwanted, how.steps), seed, how, self.stopped)
            except NonFiniteImage as error:
                if prompt not in self._missed:  # said once
                    self._missed.add(prompt)
                    self.recorder.event("warning", message=f"there is no preview of {prompt!r}: {error}")
                continue
            described = Described(image, how.infotext(prompt, unwanted, seed, s.model.stem))
            self.recorder.preview(described, step, i, j, prompt=prompt, seed=seed)
        self._spent.append(time.monotonic() - began)

    def seconds_left(self, step: int) -> float:
        """What the previews still to come will take, judged by those so far."""
        every = self.settings.preview_every
        if not every or not self._spent:
            return 0.0
        return (self.settings.steps - step) / every * sum(self._spent) / len(self._spent)
