"""Several embeddings in one table of vectors, whose rows the placeholders of prompts point to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.placeholder import Placeholder


def names_of(embedding: Embedding) -> list[str]:
    """What a prompt can call an embedding: the placeholder that its file states, as diffusers' do, and its name."""
    return list(dict.fromkeys(filter(None, (embedding.metadata.get("token"), embedding.name))))


def combine(
    embeddings: Sequence[Embedding], widths: Mapping[str, int], device: torch.device, by_token: bool = False
) -> tuple[list[Placeholder], dict[str, torch.Tensor]]:
    """The placeholders of the embeddings, and for each text encoder in `widths` all embeddings' vectors (n, width).

    Each is called by its name; `by_token`: and by the word that its file states, where it states one.
    Each embedding must have vectors for all encoders: see `compatibility.incompatibility`.
    """
    placeholders: list[Placeholder] = []
    first_row = 0
    for embedding in embeddings:
        placeholders += [
            Placeholder(name, first_row, embedding.num_vectors)
            for name in (names_of(embedding) if by_token else [embedding.name])
        ]
        first_row += embedding.num_vectors
    by_encoder = [embedding.vectors_for(widths) for embedding in embeddings]
    return placeholders, {
        encoder: torch.cat([torch.zeros(0, width), *(vectors[encoder] for vectors in by_encoder)]).to(device)
        for encoder, width in widths.items()
    }
