"""What can be said of an embedding: how long its vectors are, and which words lie nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lib_ti.embedding.value import Embedding
from lib_ti.model.checkpoint import Checkpoint
from lib_ti.model.prompts import Vocabulary


@dataclass(frozen=True)
class VectorReport:
    """One vector: its length, and the vocabulary's words nearest to it."""

    norm: float
    nearest: tuple[tuple[str, float], ...] = ()  # words and their cosines, the nearest first


@dataclass(frozen=True)
class Report:
    """All that can be said of an embedding."""

    embedding: Embedding
    vectors: tuple[VectorReport, ...]
    vocabulary_norm: float | None = None  # the mean over the vocabulary

    def to_json(self) -> dict[str, Any]:
        e = self.embedding
        return {
            "name": e.name,
            "family": e.family,
            "vectors": e.count,
            "widths": list(e.widths),
            "norms": [round(v.norm, 4) for v in self.vectors],
            "vocabulary_norm": self.vocabulary_norm,
            "nearest_words": [[[w, round(c, 4)] for w, c in v.nearest] for v in self.vectors],
            "metadata": dict(sorted(e.metadata.items())),
        }


def inspect(embedding: Embedding, checkpoint: Checkpoint | None = None, words: int = 5) -> Report:
    """Describe an embedding, with a checkpoint also in terms of its vocabulary. Their widths must agree."""
    vectors = next(iter(embedding.vectors.values()))
    norms = [float(n) for n in vectors.norm(dim=1)]
    if checkpoint is None:
        return Report(embedding, tuple(VectorReport(n) for n in norms))
    table = next(iter(checkpoint.token_tables().values()))
    vocabulary = Vocabulary(checkpoint.prompt_length)
    unit = torch.nn.functional.normalize(table, dim=1)
    cosines, places = (torch.nn.functional.normalize(vectors, dim=1) @ unit.T).topk(words, dim=1)
    reports = []
    for norm, row, where in zip(norms, cosines.tolist(), places.tolist(), strict=True):
        reports.append(
            VectorReport(norm, tuple((vocabulary.text(token), c) for token, c in zip(where, row, strict=True)))
        )
    return Report(embedding, tuple(reports), round(float(table.norm(dim=1).mean()), 4))
