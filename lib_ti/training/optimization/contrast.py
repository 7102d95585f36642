"""Learn what to avoid from good images too: with the embedding in the negative prompt, guidance shall lead to them.

A negative embedding that is trained on failed images alone describes them, with all they have in common with good ones, and
guidance away from it takes that along. So its loss has a second term: on good images, the prediction of classifier-free guidance
with the embedding in the negative prompt shall be right. DreamArtist (Dong et al., 2022) trains its pair of embeddings under
guidance in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.training.dataloader import Batch, DataLoader

GUIDANCE = 3.0
PROMPTS = ("a photo", "a picture")
"""The positive prompts, in turn."""


@dataclass(frozen=True)
class ContrastBatch:
    """Good images, with the embedding's prompts, which here are negative prompts."""

    batch: Batch


@dataclass(frozen=True)
class Contrast:
    """`loader`: of the good images."""

    loader: DataLoader

    def batch_indices(self, first_step: int, global_batch: int) -> Iterator[list[int]]:
        """As `DataLoader.batch_indices`."""
        return self.loader.batch_indices(first_step, global_batch)

    def micro_batches(
        self, step: int, indices: Sequence[int], batch_size: int, device: torch.device
    ) -> Iterator[ContrastBatch]:
        """As `DataLoader.micro_batches`."""
        return map(ContrastBatch, self.loader.micro_batches(step, indices, batch_size, device))


def contrast_losses(
    model: StableDiffusion, contrast: ContrastBatch, vectors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The mean squared error of each guided prediction, (b,), scaled so that its gradient is as large as the plain loss's.

    ε = ε_neg + s (ε_pos - ε_neg): the gradient in ε_neg has the factor 1 - s.
    """
    batch = contrast.batch
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, batch.t)
    target = model.noise_schedule.target(batch.latents, batch.noise, batch.t)
    with torch.no_grad():
        prompts = [model.tokenizer.encode(PROMPTS[i % len(PROMPTS)]) for i in range(len(batch.prompts))]
        positive = model.predict(noisy, batch.t, model.encode_prompts(prompts, model.empty_vectors()), batch.time_ids)
    negative = model.predict(noisy, batch.t, model.encode_prompts(batch.prompts, vectors), batch.time_ids)
    error = negative + GUIDANCE * (positive - negative) - target
    return error.square().mean(dim=(1, 2, 3)) / (GUIDANCE - 1)
