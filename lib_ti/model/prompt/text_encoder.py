"""Text features of prompts, with learned vectors in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_ti.model.prompt.placeholder import PLAIN, Prompt
from lib_ti.model.prompt.tokenizer import CLIP, END, OPENCLIP, Dialect


@dataclass(frozen=True)
class Context:
    """What the UNet is told of prompts: `features` (b, tokens, width), and in some families `pooled` (b, p) of each whole."""

    features: torch.Tensor
    pooled: torch.Tensor | None = None

    def select(self, rows: Sequence[int]) -> Context:
        """That of the prompts with these numbers; one may be wanted several times."""
        places = torch.tensor(rows, device=self.features.device)
        pooled = None if self.pooled is None else self.pooled.index_select(0, places)
        return Context(self.features.index_select(0, places), pooled)

    def to(self, dtype: torch.dtype) -> Context:
        return Context(self.features.to(dtype), None if self.pooled is None else self.pooled.to(dtype))

    def blank(self) -> Context:
        """Zeros in its place."""
        return Context(torch.zeros_like(self.features), None if self.pooled is None else torch.zeros_like(self.pooled))


class _DistantTable(torch.nn.Embedding):
    """A vocabulary that stays in the processor's memory wherever its network goes: of its vectors a step wants a few."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids.to(self.weight.device)).to(ids.device)

    def _apply(self, *_: Any, **__: Any) -> _DistantTable:
        return self


class TextEncoder:
    """One CLIP text encoder, whose token vectors can be exchanged on their way in.

    The exchange is a selection matrix, so it has static shapes and its gradient is a sum in a fixed order.
    """

    def __init__(
        self,
        model: Any,
        layer: int = 1,
        normed: bool = True,
        padding: int = END,
        pooled: bool = False,
    ) -> None:
        """`layer`, `normed`: as in `families.Encoder`. `padding`: the token behind a prompt's end. `pooled`: also summarise."""
        self.model = model
        self._layer, self._normed, self._padding, self._pooled = layer, normed, padding, pooled
        self._rows: torch.Tensor | None = None  # (prompts, tokens), while a batch is encoded
        self._vectors: torch.Tensor | None = None
        self._table.register_forward_hook(self._insert)

    @property
    def dialect(self) -> Dialect:
        """How the WebUIs read text for it. OpenCLIP's encoders are those that are padded with another token than their end."""
        return CLIP if self._padding == END else OPENCLIP

    @property
    def _table(self) -> torch.nn.Embedding:
        table: torch.nn.Embedding = self.model.get_input_embeddings()
        return table

    @property
    def token_table(self) -> torch.Tensor:
        """The vocabulary's vectors, (words, width), wherever they lie."""
        return self._table.weight

    def leave_table(self) -> None:
        """Leave the vocabulary's vectors in the processor's memory from now on."""
        table = self._table.cpu()
        table.__class__ = _DistantTable

    def encode(self, prompts: Sequence[Prompt], vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (prompts, tokens, width) and what is pooled, for prompts whose rows are those of `vectors` (n, width)."""
        device = self.model.text_model.embeddings.position_embedding.weight.device
        ids = torch.tensor([p.ids for p in prompts], device=device)
        self._rows = torch.tensor([p.rows for p in prompts], device=device)
        self._vectors = vectors
        ends = ids == END
        if self._padding != END:
            behind = ends.cumsum(1) - ends.int() > 0
            ids = ids.masked_fill(behind, self._padding)
        try:
            found = self.model.text_model(input_ids=ids, output_hidden_states=True)
        finally:
            self._rows = self._vectors = None
        features = found.hidden_states[-self._layer]
        if self._normed:
            features = self.model.text_model.final_layer_norm(features)
        if not self._pooled:
            return features, None
        summaries = found.last_hidden_state[torch.arange(len(ids), device=ids.device), ends.int().argmax(1)]
        return features, self.model.text_projection(summaries)

    def _insert(self, _module: Any, _inputs: Any, found: torch.Tensor) -> torch.Tensor:
        rows, vectors = self._rows, self._vectors
        if rows is None or vectors is None or not len(vectors):
            return found
        selection = torch.nn.functional.one_hot(rows.clamp(min=0), len(vectors)).to(vectors.dtype)  # (b, tokens, n)
        inserted = (selection @ vectors).to(found.dtype)
        return torch.where((rows != PLAIN).unsqueeze(-1), inserted, found)


class PromptEncoder:
    """A checkpoint's text encoders, their features side by side."""

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        self.encoders = encoders

    @property
    def dialect(self) -> Dialect:
        """How names of words are read: as the first encoder reads text."""
        return next(iter(self.encoders.values())).dialect

    def encode(self, prompts: Sequence[Prompt], vectors: Mapping[str, torch.Tensor]) -> Context:
        """The context of prompts whose rows are those of each encoder's `vectors` (n, width).

        A prompt that occurs several times goes through the encoders once.
        """
        distinct = list(dict.fromkeys(prompts))
        found = [encoder.encode(distinct, vectors[name]) for name, encoder in self.encoders.items()]
        pooled = next((summary for _, summary in found if summary is not None), None)
        context = Context(torch.cat([features for features, _ in found], dim=-1), pooled)
        return context if len(distinct) == len(prompts) else context.select([distinct.index(p) for p in prompts])
