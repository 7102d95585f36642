"""The training images of a run: their files and captions, and their pixels and loss weights at the training size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lib_ti.data import images


@dataclass(frozen=True)
class Example:
    """An image of the run's own copies with its caption and mask; sizes are (width, height) in pixels."""

    path: Path
    caption: str
    mask_path: Path | None
    size: tuple[int, int]  # that it is trained at
    use_masks: bool = True  # whether its mask and alpha channel weight the loss
    original_size: tuple[int, int] | None = None  # None: `size`
    repeats: int = 1  # uses, for each use of the others

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's size and crop conditioning (Podell et al., "SDXL", 2024, section 2.2).

        Original height and width, top and left of the crop in the resized image, target height and width. As
        `images.resize_and_crop` crops the center, a mirrored image has the same.
        """
        width, height = self.size
        original_width, original_height = self.original_size or self.size
        scale = max(width / original_width, height / original_height)
        top, left = round((original_height * scale - height) / 2), round((original_width * scale - width) / 2)
        return original_height, original_width, top, left, height, width


@dataclass(frozen=True)
class TrainingImage:
    """Input of the VAE and weight of the loss.

    Attributes:
        pixels: (1, 3, h, w) in -1..1.
        loss_weight: (1, h / vae_scale_factor, w / vae_scale_factor) with mean 1; None: all latents weigh the same.
    """

    pixels: torch.Tensor
    loss_weight: torch.Tensor | None

    @property
    def mirrored(self) -> TrainingImage:
        return TrainingImage(self.pixels.flip(3), None if self.loss_weight is None else self.loss_weight.flip(2))


def load_image(example: Example, vae_scale_factor: int) -> TrainingImage:
    """Decode an example at its training size. `vae_scale_factor`: pixels per latent, each way. Raises UnusableFile."""
    image = images.decode(example.path)
    pixels = np.asarray(images.flatten(images.resize_and_crop(image, *example.size)), dtype=np.float32)
    loss_weight = None
    if mask := images.read_mask(image, example.mask_path) if example.use_masks else None:
        cropped = images.resize_and_crop(mask, *example.size).reduce(vae_scale_factor)
        values = torch.from_numpy(np.array(cropped, dtype=np.float32))
        loss_weight = (values / values.mean()).unsqueeze(0) if values.max() > 0 else None
    return TrainingImage(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0), loss_weight)


def load_images(examples: Sequence[Example], vae_scale_factor: int) -> Iterator[TrainingImage]:
    """Decode examples in order, each next one in a thread while the caller works on the current one."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        futures = [pool.submit(load_image, example, vae_scale_factor) for example in examples[:1]]
        for example in examples[1:]:
            futures.append(pool.submit(load_image, example, vae_scale_factor))
            yield futures.pop(0).result()
        for future in futures:
            yield future.result()
