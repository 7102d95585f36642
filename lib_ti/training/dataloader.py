"""Batches of a run: dataset and bucket sampler put together, every random draw a function of seed, step and index.

Because a draw depends on the step and on the index in the global batch alone, a resumed run, a smaller micro-batch or a
repeated step sees the same latents, timesteps, noise and prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_ti.data.bucket_sampler import sample_batches
from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder, TokenizedPrompt
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.randomness import derive_seed
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.optimization.timesteps import sample_timestep


@dataclass(frozen=True)
class Batch:
    """`latents`, `noise`: (b, c, h, w) fp32; `t`: (b,) timesteps; `weight`: loss weights (b, 1, h, w), None without masks.

    `time_ids`: (b, 6), SDXL's original size, crop and target size; see `Example.time_ids`.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    prompts: tuple[TokenizedPrompt, ...]
    weight: torch.Tensor | None
    time_ids: torch.Tensor


@dataclass(frozen=True)
class Sample:
    """One row of a `Batch`: `latents`, `noise` (c, h, w); `weight` (1, h, w), None without a mask; `time_ids` of its example."""

    latents: torch.Tensor
    noise: torch.Tensor
    t: int
    prompt: TokenizedPrompt
    weight: torch.Tensor | None
    time_ids: tuple[int, ...]


def collate(samples: Sequence[Sample], device: torch.device) -> Batch:
    """The samples, whose images have one size, as a batch on a device."""
    weight = None
    if any(sample.weight is not None for sample in samples):
        uniform = torch.ones(1, *samples[0].latents.shape[1:])
        weight = torch.stack([uniform if s.weight is None else s.weight for s in samples]).to(device)
    return Batch(
        latents=torch.stack([sample.latents for sample in samples]).to(device),
        noise=torch.stack([sample.noise for sample in samples]).to(device),
        t=torch.tensor([sample.t for sample in samples], device=device),
        prompts=tuple(sample.prompt for sample in samples),
        weight=weight,
        time_ids=torch.tensor([sample.time_ids for sample in samples], dtype=torch.float32).to(device),
    )


@dataclass(frozen=True)
class DataLoader:
    """Loads the batches of a run.

    `num_timesteps`: of the noise schedule. `noise_offset`: std of the noise's mean per channel. `cache_offset`: index of the
    first example in the cache.
    """

    examples: Sequence[Example]
    cache: LatentCache
    captioner: Captioner
    tokenizer: PromptTokenizer
    placeholder: Placeholder
    seed: int
    flip: bool
    num_timesteps: int
    timestep_sampling: str = "uniform"
    noise_offset: float = 0.0
    cache_offset: int = 0

    def batch_indices(self, first_step: int, global_batch: int) -> Iterator[list[int]]:
        """For each step from `first_step` on, the indices of the examples in its global batch; all share one bucket."""
        uses = [i for i, example in enumerate(self.examples) for _ in range(example.repeats)]
        for batch in sample_batches([self.examples[i].size for i in uses], global_batch, self.seed, first_step):
            yield [uses[use] for use in batch]

    def micro_batches(
        self, step: int, indices: Sequence[int], batch_size: int, device: torch.device
    ) -> Iterator[Batch]:
        """The global batch `indices` of a step, `batch_size` examples at a time, each loaded when it is asked for."""
        for offset in range(0, len(indices), batch_size):
            yield self.load_batch(step, indices[offset : offset + batch_size], offset, device)

    def load_batch(self, step: int, indices: Sequence[int], offset: int, device: torch.device) -> Batch:
        """One micro-batch: the examples `indices`, whose first one is number `offset` of the step's global batch."""
        return collate([self._load_sample(step, offset + i, index) for i, index in enumerate(indices)], device)

    def _load_sample(self, step: int, position: int, index: int) -> Sample:
        """One example at a position of the global batch."""
        seed = derive_seed(self.seed, "sample", step, position)
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        encoded, example = (
            self.cache.get(self.cache_offset + index, self.flip and rng.random() < 0.5),
            self.examples[index],
        )
        t = sample_timestep(self.timestep_sampling, self.num_timesteps, generator)
        latents = encoded.sample(torch.randn(encoded.mean.shape, generator=generator))
        noise = torch.randn(encoded.mean.shape, generator=generator)
        if self.noise_offset:  # https://www.crosslabs.org/blog/diffusion-with-offset-noise
            noise += self.noise_offset * torch.randn((len(noise), 1, 1), generator=generator)
        prompt = self.tokenize_prompt(example.caption, rng)
        return Sample(latents, noise, t, prompt, encoded.loss_weight, example.time_ids)

    def tokenize_prompt(self, caption: str, rng: random.Random) -> TokenizedPrompt:
        """A training prompt for an image with this caption; it contains the placeholder."""
        mentioned = bool(caption) and self.tokenizer.mentions(caption, self.placeholder)
        text = self.captioner.prompt(caption, mentioned, rng)
        return self.tokenizer.encode(text, [self.placeholder], required=self.placeholder)


def create_loader(
    settings: TrainSettings,
    examples: Sequence[Example],
    cache: LatentCache,
    model: StableDiffusion,
    templates: Sequence[str],
) -> DataLoader:
    """The loader that the settings ask for, of examples whose latents are in the cache."""
    s = settings
    return DataLoader(
        examples=examples,
        cache=cache,
        captioner=Captioner(s.name, templates, s.shuffle_tags, s.tag_dropout, s.caption_dropout),
        tokenizer=model.tokenizer,
        placeholder=Placeholder(s.name, 0, s.vectors),
        seed=s.seed,
        flip=s.flip,
        num_timesteps=model.noise_schedule.num_train_timesteps,
        timestep_sampling=s.timestep_sampling,
        noise_offset=s.noise_offset,
    )
