"""Rank start words by their loss on the training images: what describes them best is the best place to start from.

Every word is tried on a few (image, noise, timestep) triples, and the better ones on more ("successive halving", Jamieson &
Talwalkar, 2016). All are compared on the same triples, so their differences are no luck. Forward passes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lib_ti.data.latent_cache import LatentCache
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.randomness import derive_seed
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.init_vectors import vectors_from_text
from lib_ti.training.validation.pictures import ValidationPicture
from lib_ti.training.validation.validation_set import ValidationSet

FIRST_TRIPLES = 4  # that every word is tried on
KEPT_SHARE = 0.2  # of the words, that go on to all triples
MIN_KEPT = 8


@dataclass(frozen=True)
class RankedWord:
    """`loss`: its mean over all triples."""

    text: str
    loss: float


@dataclass
class WordRanking:
    """Tries words as starts of one training. `progress`: called with the number of words' trials done and to be done.

    `stop_requested`: asked before each trial; the ranking ends with what it has then.
    """

    model: StableDiffusion
    loader: DataLoader
    validation_set: ValidationSet
    batch_size: int
    progress: Callable[[int, int], None] = lambda done, total: None
    stop_requested: Callable[[], bool] = lambda: False

    @classmethod
    def create(
        cls, model: StableDiffusion, loader: DataLoader, cache: LatentCache, triples: int, batch_size: int
    ) -> WordRanking:
        """Draw `triples` triples of the training images, independently of what the training draws."""
        pictures = [ValidationPicture(example, cache.get(i, False)) for i, example in enumerate(loader.examples)]
        drawn = ValidationSet.create(pictures, triples, replace(loader, seed=derive_seed(loader.seed, "start words")))
        return cls(model, loader, drawn, batch_size)

    def rank(self, texts: Sequence[str]) -> list[RankedWord]:
        """The texts that got to the last round, the best first."""
        texts = [text for text in dict.fromkeys(texts) if self.model.tokenizer.token_ids(text)]
        triples = self.validation_set.triples
        stride = max(1, len(triples) // FIRST_TRIPLES)
        first = ValidationSet(triples[stride // 2 :: stride])
        rest = ValidationSet([t for i, t in enumerate(triples) if i % stride != stride // 2])
        kept = max(MIN_KEPT, round(KEPT_SHARE * len(texts)))
        rounds = [(first, len(texts)), (rest, min(kept, len(texts)))] if rest.triples else [(first, len(texts))]
        total, done = sum(count for _, count in rounds), 0
        losses: dict[str, torch.Tensor] = {}
        for validation_set, count in rounds:
            best = sorted(texts, key=lambda text: float(losses[text].nanmean()) if losses else 0.0)[:count]
            if losses:
                losses = {text: losses[text] for text in best}
            for text in best:
                if self.stop_requested():
                    return _sorted(losses)
                measured = self.losses(text, validation_set)
                losses[text] = torch.cat([losses[text], measured]) if text in losses else measured
                done += 1
                self.progress(done, total)
        return _sorted(losses)

    def losses(self, text: str, validation_set: ValidationSet | None = None) -> torch.Tensor:
        """The loss of each triple, (triples,), with a start from that text; NaN where the model overflowed."""
        chosen = validation_set or self.validation_set
        return chosen.losses(self.model, self._vectors(text), self.batch_size)

    def _vectors(self, text: str) -> Mapping[str, torch.Tensor]:
        count = self.loader.placeholder.num_vectors
        return {
            encoder: vectors_from_text(table, self.model.tokenizer, text, count).to(self.model.device)
            for encoder, table in self.model.token_embeddings().items()
        }


def _sorted(losses: Mapping[str, torch.Tensor]) -> list[RankedWord]:
    if not losses:
        return []
    longest = max(len(values) for values in losses.values())
    ranked = [RankedWord(text, float(values.nanmean())) for text, values in losses.items() if len(values) == longest]
    return sorted((word for word in ranked if word.loss == word.loss), key=lambda word: word.loss)
