"""CLIP text encoders, with learned vectors in place of placeholders' token embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_ti.model.prompt.placeholder import NO_VECTOR, TokenizedPrompt
from lib_ti.model.prompt.tokenizer import CLIP_TOKENIZER, EOS, OPENCLIP_TOKENIZER, Tokenizer


@dataclass(frozen=True)
class Context:
    """The UNet's text conditioning: `encoder_hidden_states` (b, tokens, width), and in SDXL `pooled` outputs (b, p)."""

    encoder_hidden_states: torch.Tensor
    pooled: torch.Tensor | None = None

    def select(self, indices: Sequence[int]) -> Context:
        """The context of the prompts with these indices, which may repeat."""
        index = torch.tensor(indices, device=self.encoder_hidden_states.device)
        pooled = None if self.pooled is None else self.pooled.index_select(0, index)
        return Context(self.encoder_hidden_states.index_select(0, index), pooled)

    def to(self, dtype: torch.dtype) -> Context:
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return Context(self.encoder_hidden_states.to(dtype), pooled)

    def zeros_like(self) -> Context:
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Context(torch.zeros_like(self.encoder_hidden_states), pooled)


class _CpuEmbedding(torch.nn.Embedding):
    """Takes over an embedding and stays on the CPU wherever its network goes: a step needs only a few of its vectors."""

    def __init__(self, embedding: torch.nn.Embedding) -> None:
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        self.weight = embedding.cpu().weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids.to(self.weight.device)).to(input_ids.device)

    def _apply(self, *_: Any, **__: Any) -> _CpuEmbedding:
        return self


class TextEncoder:
    """One CLIP text encoder whose token embeddings a forward hook replaces at placeholders.

    The replacement is a product with a one-hot matrix, so shapes are static and its gradient is a sum in a fixed order.
    """

    def __init__(
        self,
        model: Any,
        layer: int = 1,
        final_layer_norm: bool = True,
        openclip: bool = False,
        pooled: bool = False,
    ) -> None:
        """`model`: a transformers `CLIPTextModel`, or with `pooled` one `...WithProjection`; the rest as in `families.Encoder`.

        `layer`: counted from the last, which is 1, as "clip skip".
        """
        self.model = model
        self.tokenizer: Tokenizer = OPENCLIP_TOKENIZER if openclip else CLIP_TOKENIZER
        self._pad_id = 0 if openclip else EOS
        self._layer, self._final_layer_norm, self._pooled = layer, final_layer_norm, pooled
        self._vector_rows: torch.Tensor | None = None  # (prompts, tokens), during `encode`
        self._vectors: torch.Tensor | None = None
        self._hook = self._embedding.register_forward_hook(self._insert_vectors)

    @property
    def _embedding(self) -> torch.nn.Embedding:
        embedding: torch.nn.Embedding = self.model.get_input_embeddings()
        return embedding

    @property
    def token_table(self) -> torch.Tensor:
        """The vocabulary's token embeddings (vocabulary, width), on whatever device they are."""
        return self._embedding.weight

    def keep_token_table_on_cpu(self) -> None:
        """Move the token embeddings to the CPU for good."""
        self._hook.remove()
        self.model.set_input_embeddings(_CpuEmbedding(self._embedding))
        self._hook = self._embedding.register_forward_hook(self._insert_vectors)

    def encode(
        self, prompts: Sequence[TokenizedPrompt], vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (prompts, tokens, width) and pooled features (prompts, p), or None.

        The prompts' vector rows are those of `vectors` (n, width).
        """
        device = self.model.text_model.embeddings.position_embedding.weight.device
        input_ids = torch.tensor([prompt.input_ids for prompt in prompts], device=device)
        self._vector_rows = torch.tensor([prompt.vector_rows for prompt in prompts], device=device)
        self._vectors = vectors
        is_eos = input_ids == EOS
        if self._pad_id != EOS:
            is_padding = is_eos.cumsum(1) - is_eos.int() > 0
            input_ids = input_ids.masked_fill(is_padding, self._pad_id)
        try:
            output = self.model.text_model(input_ids=input_ids, output_hidden_states=True)
        finally:
            self._vector_rows = self._vectors = None
        features = output.hidden_states[-self._layer]
        if self._final_layer_norm:
            features = self.model.text_model.final_layer_norm(features)
        if not self._pooled:
            return features, None
        first_eos = is_eos.int().argmax(1)
        pooled = output.last_hidden_state[torch.arange(len(input_ids), device=input_ids.device), first_eos]
        return features, self.model.text_projection(pooled)

    def _insert_vectors(self, _module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        """The forward hook of the token embedding, whose output is (prompts, tokens, width)."""
        rows, vectors = self._vector_rows, self._vectors
        if rows is None or vectors is None or not len(vectors):
            return embedded
        one_hot = torch.nn.functional.one_hot(rows.clamp(min=0), len(vectors)).to(vectors.dtype)  # (b, tokens, n)
        inserted = (one_hot @ vectors).to(embedded.dtype)
        return torch.where((rows != NO_VECTOR).unsqueeze(-1), inserted, embedded)


class PromptEncoder:
    """A checkpoint's text encoders, their features concatenated."""

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        self.encoders = encoders

    @property
    def tokenizer(self) -> Tokenizer:
        """The first encoder's, which also tokenizes placeholders' names."""
        return next(iter(self.encoders.values())).tokenizer

    def encode(self, prompts: Sequence[TokenizedPrompt], vectors: Mapping[str, torch.Tensor]) -> Context:
        """The context of prompts whose vector rows are those of each encoder's `vectors` (n, width).

        A prompt that occurs several times is encoded once.
        """
        distinct = list(dict.fromkeys(prompts))
        outputs = [encoder.encode(distinct, vectors[name]) for name, encoder in self.encoders.items()]
        pooled = next((pooled for _, pooled in outputs if pooled is not None), None)
        context = Context(torch.cat([features for features, _ in outputs], dim=-1), pooled)
        return context if len(distinct) == len(prompts) else context.select([distinct.index(p) for p in prompts])
