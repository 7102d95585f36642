"""Encode the pictures of a run with the VAE, each once: those that are trained on, and those that it is validated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from lib_ti.data import dataset
from lib_ti.data.dataset import Example, TrainingImage
from lib_ti.data.latent_cache import LatentCache, LatentDistribution
from lib_ti.errors import TrainingFailed
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory.malloc import keep_freed_memory
from lib_ti.training.validation.pictures import ValidationPicture


class Stopped(Exception):
    """The training was stopped before its first step."""


@dataclass
class ImageEncoder:
    """`event`: told of each training image, as `Recorder.event`; `stop_requested`: the methods raise Stopped if it is true."""

    model: StableDiffusion
    event: Callable[..., object]
    stop_requested: Callable[[], bool]

    def encode_training(
        self, examples: Sequence[Example], flip: bool, cache: LatentCache, first_index: int = 0
    ) -> None:
        """Encode examples into the cache, from an index on, and mirrored if `flip`. Raises TrainingFailed if it overflows."""
        with self._vae():
            for i, image in enumerate(self._load(examples)):
                for mirrored in (False, True) if flip else (False,):
                    cache.put(
                        first_index + i, mirrored, self._encode(image.mirrored if mirrored else image, examples[i])
                    )
                self.event("encoding", done=i + 1, images=len(examples))

    def encode_held_back(self, examples: Sequence[Example]) -> list[ValidationPicture]:
        """Examples and their latents. Raises TrainingFailed if the VAE overflows."""
        if not examples:
            return []
        with self._vae():
            images = zip(examples, self._load(examples), strict=True)
            return [ValidationPicture(example, self._encode(image, example)) for example, image in images]

    @contextmanager
    def _vae(self) -> Iterator[None]:
        """Within the context images are encoded as fast as the memory mode allows."""
        keep_freed = self.model.device.type == "cpu" and not self.model.offload_text_encoders
        with self.model.vae_on_device(), keep_freed_memory() if keep_freed else nullcontext():
            yield

    def _load(self, examples: Sequence[Example]) -> Iterator[TrainingImage]:
        for image in dataset.load_images(examples, self.model.vae_scale_factor):
            if self.stop_requested():
                raise Stopped
            yield image

    def _encode(self, image: TrainingImage, example: Example) -> LatentDistribution:
        mean, std = self.model.encode_images(image.pixels)
        if not bool(torch.isfinite(mean).all()):
            name = example.path.name
            raise TrainingFailed(f"the VAE gives no numbers for {name}; try --precision fp32 or another --vae")
        return LatentDistribution(mean[0].cpu(), std[0].cpu(), image.loss_weight)
