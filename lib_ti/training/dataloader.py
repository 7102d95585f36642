"""Drawing what a step trains on: pictures, prompts, times and noise, each draw named by seed, step and place."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_ti.data.bucket_sampler import sample_batches
from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache
from lib_ti.model.prompt.placeholder import Placeholder, TokenizedPrompt
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.randomness import derive_seed


@dataclass(frozen=True)
class Batch:
    """`latents`, `noise`: (b, c, h, w) fp32; `t`: (b,); `weight`: (b, 1, h, w) or None where all places count alike.

    `frames`: (b, 6), how each picture was cut; see `data.dataset.Example.time_ids`.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    prompts: tuple[TokenizedPrompt, ...]
    weight: torch.Tensor | None
    frames: torch.Tensor


@dataclass(frozen=True)
class BatchSource:
    """The run's pictures and words, from which every step's batches are drawn."""

    examples: Sequence[Example]
    cache: LatentCache
    captioner: Captioner
    tokenizer: PromptTokenizer
    word: Placeholder
    seed: int
    flip: bool
    times: int  # of the noise schedule

    def steps(self, start: int, global_batch: int) -> Iterator[list[int]]:
        """For each step from `start` on, the pictures of its global batch."""
        return sample_batches([e.size for e in self.examples], global_batch, self.seed, start)

    def draw(self, step: int, pictures: Sequence[int], first: int, device: torch.device) -> Batch:
        """One micro-batch: `pictures`, which stand in the step's global batch from place `first` on."""
        drawn = [self._draw_one(step, first + i, picture) for i, picture in enumerate(pictures)]
        latents, noise, times, prompts, weights = zip(*drawn, strict=True)
        weight = None
        if any(w is not None for w in weights):
            plain = torch.ones(1, *latents[0].shape[1:])
            weight = torch.stack([plain if w is None else w for w in weights]).to(device)
        return Batch(
            latents=torch.stack(latents).to(device),
            noise=torch.stack(noise).to(device),
            t=torch.tensor(times, device=device),
            prompts=prompts,
            weight=weight,
            frames=torch.tensor([self.examples[picture].time_ids for picture in pictures], dtype=torch.float32).to(
                device
            ),
        )

    def _draw_one(
        self, step: int, place: int, picture: int
    ) -> tuple[torch.Tensor, torch.Tensor, int, TokenizedPrompt, torch.Tensor | None]:
        number = derive_seed(self.seed, "sample", step, place)
        words, dice = random.Random(number), torch.Generator().manual_seed(number)
        encoded = self.cache.get(picture, self.flip and words.random() < 0.5)
        t = int(torch.randint(0, self.times, (), generator=dice))
        latents = encoded.sample(torch.randn(encoded.mean.shape, generator=dice))
        noise = torch.randn(encoded.mean.shape, generator=dice)
        return latents, noise, t, self.prompt(self.examples[picture].caption, words), encoded.loss_weight

    def prompt(self, caption: str, rng: random.Random) -> TokenizedPrompt:
        """A prompt for a picture with this caption, with the word in it."""
        mentioned = bool(caption) and self.tokenizer.mentions(caption, self.word)
        text = self.captioner.prompt(caption, mentioned, rng)
        return self.tokenizer.encode(text, [self.word], required=self.word)
