"""Several embeddings in one table of vectors, which prompts' rows point into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.placeholder import Placeholder

Vectors = dict[str, torch.Tensor]


def combine(
    embeddings: Sequence[Embedding], widths: Mapping[str, int], device: torch.device
) -> tuple[list[Placeholder], Vectors]:
    """Each embedding's word, by its name, and for each text encoder in `widths` the vectors of all, (n, width).

    Each must fit, see `embedding.fit`.
    """
    words: list[Placeholder] = []
    first = 0
    for embedding in embeddings:
        words.append(Placeholder(embedding.name, first, embedding.num_vectors))
        first += embedding.num_vectors
    fitted = [embedding.fitted(widths) for embedding in embeddings]
    return words, {
        encoder: torch.cat([torch.zeros(0, width), *(vectors[encoder] for vectors in fitted)]).to(device)
        for encoder, width in widths.items()
    }
