"""Text features of prompts, with learned vectors in their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib_ti.model.prompts import PLAIN, Prompt


class PromptEncoder:
    """CLIP's text encoder, whose token vectors can be exchanged on their way in.

    The exchange is a selection matrix, so it has static shapes and its gradient is a sum in a fixed order.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._rows: torch.Tensor | None = None  # (prompts, tokens), while a batch is encoded
        self._vectors: torch.Tensor | None = None
        table: torch.nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        table.register_forward_hook(self._insert)

    def encode(self, prompts: Sequence[Prompt], vectors: torch.Tensor) -> torch.Tensor:
        """Features (prompts, tokens, width) for prompts whose rows are those of `vectors` (n, width).

        A prompt that occurs several times goes through the encoder once.
        """
        distinct = list(dict.fromkeys(prompts))
        device = next(self.model.parameters()).device
        ids = torch.tensor([p.ids for p in distinct], device=device)
        self._rows = torch.tensor([p.rows for p in distinct], device=device)
        self._vectors = vectors
        try:
            features: torch.Tensor = self.model(input_ids=ids).last_hidden_state
        finally:
            self._rows = self._vectors = None
        if len(distinct) == len(prompts):
            return features
        order = torch.tensor([distinct.index(p) for p in prompts], device=device)
        return features.index_select(0, order)

    def _insert(self, _module: Any, _inputs: Any, found: torch.Tensor) -> torch.Tensor:
        rows, vectors = self._rows, self._vectors
        if rows is None or vectors is None or not len(vectors):
            return found
        selection = torch.nn.functional.one_hot(rows.clamp(min=0), len(vectors)).to(vectors.dtype)  # (b, tokens, n)
        inserted = (selection @ vectors).to(found.dtype)
        return torch.where((rows != PLAIN).unsqueeze(-1), inserted, found)
