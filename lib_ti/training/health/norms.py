"""Whether learned vectors are absurdly long, measured by the vocabulary's own.

A prompt's words compete by the length of their token embeddings, which differ little within a vocabulary. Vectors of some
times that length still work; far longer ones drown the rest of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.training.validation.constants import MAX_NORM_RATIO

_CHUNK = 4096  # rows; a copy of the whole table in fp32 would take more than a hundred MB


@torch.no_grad()
def long_norm(token_table: torch.Tensor) -> float:
    """The 99th percentile of the norms of a token table (vocabulary, width)."""
    norms = torch.cat([rows.float().norm(dim=1).cpu() for rows in token_table.split(_CHUNK)])
    return float(norms.kthvalue(max(1, round(0.99 * len(norms)))).values.clamp(min=1e-6))  # it is divided by


def norm_ratio(vectors: Mapping[str, torch.Tensor], long_norms: Mapping[str, float]) -> float:
    """The norm of the longest vector (n, width) of any text encoder, as a multiple of what is long in its vocabulary."""
    return max(float(v.detach().norm(dim=1).max()) / long_norms[name] for name, v in vectors.items() if len(v))


def norm_warning(ratio: float, at_delivery: bool = False) -> str | None:
    """A sentence about vectors that are too long, and what to do; None if they are not."""
    if ratio <= MAX_NORM_RATIO:
        return None
    length = f"the vectors are {ratio:.0f} times as long as those of ordinary long words"
    if at_delivery:
        return f"{length}: other words in a prompt will hardly count beside this one; train again with a lower learning rate"
    return f"{length} and drown what else a prompt says; stop, and train with a lower learning rate or fewer steps"
