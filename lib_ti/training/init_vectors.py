"""Where the vectors start: words of the vocabulary, chance, or another embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.randomness import derive_seed
from lib_ti.settings.train_settings import TrainSettings


def begin(
    settings: TrainSettings, tables: Mapping[str, torch.Tensor], tokenizer: PromptTokenizer, initial: Embedding | None
) -> dict[str, torch.Tensor]:
    """The first vectors for each text encoder, whose vocabularies' vectors are `tables`.

    What an initial embedding has no vectors for begins as the settings' words.
    """
    given = initial.vectors_for({name: table.shape[1] for name, table in tables.items()}) if initial else {}
    return {
        name: repeated(given[name], settings.vectors).to(table.device)
        if name in given
        else at_random(table, settings.vectors, settings.seed)
        if settings.init_random
        else from_text(table, tokenizer, settings.init_text, settings.vectors)
        for name, table in tables.items()
    }


def from_text(table: torch.Tensor, tokenizer: PromptTokenizer, text: str, count: int) -> torch.Tensor:
    """`count` vectors (count, width) fp32: those of the text's words, spread evenly over them as A1111 does."""
    words = tokenizer.token_ids(text)
    chosen = [words[i * len(words) // count] for i in range(count)]
    return table[torch.tensor(chosen, device=table.device)].float()


def at_random(table: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` random vectors with the mean and deviation of the vocabulary's."""
    sample = table.float()
    generator = torch.Generator().manual_seed(derive_seed(seed, "start"))
    noise = torch.randn((count, table.shape[1]), generator=generator).to(table.device)
    return sample.mean(dim=0) + sample.std(dim=0) * noise


def repeated(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """The vectors of an embedding, its last one repeated or its end left out where the counts differ."""
    return vectors[[min(i, len(vectors) - 1) for i in range(count)]].clone()
