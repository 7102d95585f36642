"""What can be said of an embedding: how long its vectors are, and which words lie nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_ti.embedding.summary import made_for
from lib_ti.embedding.value import Embedding
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer


@dataclass(frozen=True)
class VectorReport:
    """One vector: its length, and the vocabulary's words nearest to it."""

    norm: float
    nearest: tuple[tuple[str, float], ...] = ()  # words and their cosines, the nearest first

    def to_json(self) -> dict[str, Any]:
        return {
            "norm": round(self.norm, 4),
            "nearest_words": [[word, round(cosine, 4)] for word, cosine in self.nearest],
        }


@dataclass(frozen=True)
class EncoderReport:
    """The vectors for one text encoder. `vocabulary_norm`: the mean over its vocabulary."""

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
class Report:
    """All that can be said of an embedding."""

    embedding: Embedding
    encoders: Mapping[str, EncoderReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        e = self.embedding
        return {
            "name": e.name,
            "family": e.family,
            "made_for": made_for(e.widths),
            "vectors": e.num_vectors,
            "encoders": {name: report.to_json() for name, report in self.encoders.items()},
            "metadata": dict(sorted(e.metadata.items())),
        }


def inspect(embedding: Embedding, tables: Mapping[str, torch.Tensor], words: int = 5) -> Report:
    """Describe an embedding, with a checkpoint's token tables, if any, in terms of its vocabulary. Their widths must agree."""
    tokenizer = PromptTokenizer()
    given = list(tables.values())
    if given and tuple(table.shape[1] for table in given) != embedding.widths:
        raise ValueError("the embedding is not for this checkpoint")
    reports = {}
    for place, (name, vectors) in enumerate(embedding.vectors.items()):
        reports[name] = _report(vectors, given[place] if given else None, tokenizer, words)
    return Report(embedding, reports)


def _report(vectors: torch.Tensor, table: torch.Tensor | None, tokenizer: PromptTokenizer, words: int) -> EncoderReport:
    norms = [float(norm) for norm in vectors.norm(dim=1)]
    if table is None:
        return EncoderReport(vectors.shape[1], tuple(VectorReport(norm) for norm in norms))
    unit = torch.nn.functional.normalize
    found = (unit(vectors, dim=1) @ unit(table, dim=1).T).topk(min(words, len(table)), dim=1)  # (n, words)
    told = tuple(
        VectorReport(
            norm,
            tuple((tokenizer.decode(token), cosine) for token, cosine in zip(tokens, cosines, strict=True) if norm),
        )
        for norm, tokens, cosines in zip(norms, found.indices.tolist(), found.values.tolist(), strict=True)
    )
    return EncoderReport(vectors.shape[1], told, float(table.norm(dim=1).mean()))
