"""Initial values of the vectors: token embeddings of the init text, random ones, or another embedding's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.randomness import derive_seed
from lib_ti.settings.init_text import init_text
from lib_ti.settings.train_settings import TrainSettings


def init_vectors(
    settings: TrainSettings,
    token_tables: Mapping[str, torch.Tensor],
    tokenizer: PromptTokenizer,
    embedding: Embedding | None,
) -> dict[str, torch.Tensor]:
    """The initial vectors (n, width) for each text encoder, on the device of its token table (vocabulary, width).

    Encoders that `embedding` has no vectors for start as the settings say without one.
    """
    initial = embedding.vectors_for({name: table.shape[1] for name, table in token_tables.items()}) if embedding else {}
    return {
        name: repeat_last(initial[name], settings.vectors).to(table.device)
        if name in initial
        else random_vectors(table, settings.vectors, settings.seed)
        if settings.init_random
        else vectors_from_text(table, tokenizer, init_text(settings), settings.vectors)
        for name, table in token_tables.items()
    }


def vectors_from_text(table: torch.Tensor, tokenizer: PromptTokenizer, text: str, count: int) -> torch.Tensor:
    """`count` vectors (count, width) fp32: the token embeddings of a text, spread evenly over them as A1111 does."""
    token_ids = tokenizer.token_ids(text)
    spread = [token_ids[i * len(token_ids) // count] for i in range(count)]
    return table[torch.tensor(spread, device=table.device)].float()


def random_vectors(table: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` normally distributed vectors with the mean and standard deviation of the token table."""
    values = table.float()
    generator = torch.Generator().manual_seed(derive_seed(seed, "start"))
    noise = torch.randn((count, table.shape[1]), generator=generator).to(table.device)
    return values.mean(dim=0) + values.std(dim=0) * noise


def repeat_last(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` vectors; where there are fewer, the last one is repeated."""
    return vectors[[min(i, len(vectors) - 1) for i in range(count)]].clone()
