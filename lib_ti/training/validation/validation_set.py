"""A fixed set of (image, noise, timestep, prompt) on which the loss is measured again and again: its changes are no luck.

A training's own losses vary with the timestep far more than with what was learned. Here the timesteps are stratified, one in
each of as many equal parts of the schedule as there are triples, and each triple is compared with itself at another step.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.randomness import derive_seed
from lib_ti.training.dataloader import DataLoader, Sample, collate
from lib_ti.training.step import losses
from lib_ti.training.validation.pictures import ValidationPicture


@dataclass(frozen=True)
class ValidationSet:
    """`triples`: in the order of their timesteps."""

    triples: Sequence[Sample]

    @classmethod
    def create(cls, pictures: Sequence[ValidationPicture], count: int, loader: DataLoader) -> ValidationSet:
        """`count` triples, drawn from the loader's seed independently of what the training draws.

        Each picture is used as often as any other, and at timesteps all over the schedule. `loader` makes the prompts.
        """
        return cls(
            [_draw(pictures[index], i, count, loader) for i, index in enumerate(_order(pictures, count, loader.seed))]
        )

    @torch.no_grad()
    def losses(self, model: StableDiffusion, vectors: Mapping[str, torch.Tensor], batch_size: int) -> torch.Tensor:
        """The loss of each triple, (triples,) fp32 on the CPU; NaN where the model overflowed.

        `batch_size`: triples at a time. They run without CUDA graphs, which stay as they are for the training's next step.
        """
        results = torch.full((len(self.triples),), torch.nan)
        for indices in self._micro_batches(batch_size):
            batch = collate([self.triples[i] for i in indices], model.device)
            results[indices] = losses(model, batch, vectors).float().cpu()
        return results.where(results.isfinite(), torch.nan)

    def _micro_batches(self, batch_size: int) -> list[list[int]]:
        """The triples' indices, at most `batch_size` together, all of one image size."""
        by_shape: dict[torch.Size, list[int]] = {}
        for i, triple in enumerate(self.triples):
            by_shape.setdefault(triple.latents.shape, []).append(i)
        return [
            indices[start : start + batch_size]
            for indices in by_shape.values()
            for start in range(0, len(indices), batch_size)
        ]


def _order(pictures: Sequence[ValidationPicture], count: int, seed: int) -> list[int]:
    """The picture of each triple: rounds through all pictures, each in an order of its own."""
    rng, order = random.Random(derive_seed(seed, "validation order")), list[int]()
    while len(order) < count:
        order += rng.sample(range(len(pictures)), len(pictures))
    return order[:count]


def _draw(picture: ValidationPicture, index: int, count: int, loader: DataLoader) -> Sample:
    """Triple number `index` of `count`."""
    seed = derive_seed(loader.seed, "validation", index)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = picture.latents.mean.shape
    return Sample(
        latents=picture.latents.sample(torch.randn(shape, generator=generator)),
        noise=torch.randn(shape, generator=generator),
        t=int((index + rng.random()) / count * loader.num_timesteps),
        prompt=loader.tokenize_prompt(picture.example.caption, rng),
        weight=picture.latents.loss_weight,
        time_ids=picture.example.time_ids,
    )
