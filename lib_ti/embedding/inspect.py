"""Reports on an embedding: its vectors' norms, and the tokens nearest to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_ti.embedding.summary import base_model
from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer


@dataclass(frozen=True)
class VectorReport:
    """A vector's norm, and the nearest tokens with their cosine similarities, the nearest first."""

    norm: float
    nearest: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "norm": round(self.norm, 4),
            "nearest_words": [[token, round(cosine, 4)] for token, cosine in self.nearest],
        }


@dataclass(frozen=True)
class EncoderReport:
    """The vectors for one text encoder. `vocabulary_norm`: the mean norm of its token embeddings."""

    width: int
    vectors: tuple[VectorReport, ...]
    vocabulary_norm: float | None = None

    def to_json(self) -> dict[str, Any]:
        norm = self.vocabulary_norm
        return {
            "width": self.width,
            "vocabulary_norm": norm if norm is None else round(norm, 4),
            "vectors": [vector.to_json() for vector in self.vectors],
        }


@dataclass(frozen=True)
class EmbeddingReport:
    """The report on an embedding, by text encoder."""

    embedding: Embedding
    encoders: Mapping[str, EncoderReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        embedding = self.embedding
        return {
            "name": embedding.name,
            "family": embedding.family,
            "made_for": base_model(embedding.widths),
            "vectors": embedding.num_vectors,
            "encoders": {name: report.to_json() for name, report in self.encoders.items()},
            "metadata": dict(sorted(embedding.metadata.items())),
        }


def inspect_embedding(
    embedding: Embedding, token_tables: Mapping[str, torch.Tensor], num_nearest: int = 5
) -> EmbeddingReport:
    """Report on an embedding; with a checkpoint's token tables (vocabulary, width) also on the nearest tokens.

    Raises ValueError if the tables' widths are not the embedding's.
    """
    tables = list(token_tables.values())
    if tables and tuple(table.shape[1] for table in tables) != embedding.widths:
        raise ValueError("the embedding is not for this checkpoint")
    reports = {
        encoder: _inspect_vectors(vectors, tables[i] if tables else None, num_nearest)
        for i, (encoder, vectors) in enumerate(embedding.vectors.items())
    }
    return EmbeddingReport(embedding, reports)


def _inspect_vectors(vectors: torch.Tensor, table: torch.Tensor | None, num_nearest: int) -> EncoderReport:
    norms = [float(norm) for norm in vectors.norm(dim=1)]
    if table is None:
        return EncoderReport(vectors.shape[1], tuple(VectorReport(norm) for norm in norms))
    tokenizer, normalize = PromptTokenizer(), torch.nn.functional.normalize
    cosines = normalize(vectors, dim=1) @ normalize(table, dim=1).T  # (n, vocabulary)
    nearest = cosines.topk(min(num_nearest, len(table)), dim=1)
    reports = tuple(
        VectorReport(norm, tuple((tokenizer.decode(i), cosine) for i, cosine in zip(ids, row, strict=True) if norm))
        for norm, ids, row in zip(norms, nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    )
    return EncoderReport(vectors.shape[1], reports, float(table.norm(dim=1).mean()))
