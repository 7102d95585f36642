"""Several embeddings in one table of vectors, whose rows the placeholders of prompts point to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.placeholder import Placeholder


def combine(
    embeddings: Sequence[Embedding], widths: Mapping[str, int], device: torch.device
) -> tuple[list[Placeholder], dict[str, torch.Tensor]]:
    """A placeholder for each embedding, and for each text encoder in `widths` all embeddings' vectors (n, width).

    Each embedding must have vectors for all encoders: see `compatibility.incompatibility`.
    """
    placeholders: list[Placeholder] = []
    first_row = 0
    for embedding in embeddings:
        placeholders.append(Placeholder(embedding.name, first_row, embedding.num_vectors))
        first_row += embedding.num_vectors
    by_encoder = [embedding.vectors_for(widths) for embedding in embeddings]
    return placeholders, {
        encoder: torch.cat([torch.zeros(0, width), *(vectors[encoder] for vectors in by_encoder)]).to(device)
        for encoder, width in widths.items()
    }
