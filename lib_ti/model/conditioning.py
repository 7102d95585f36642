"""Prompts with placeholders and attention weights to the UNet's context, as AUTOMATIC1111 does with its default settings.

A prompt goes through each text encoder in chunks, whose hidden states are concatenated along the token axis. Each token's
hidden state is multiplied by its weight, and the result is scaled so that its mean is what it was before. The pooled embedding
is the first chunk's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.chunks import Chunk, empty_chunk, split_into_chunks
from lib_ti.model.prompt.placeholder import Placeholder, PlaceholderMatcher
from lib_ti.model.prompt.text_encoder import Context


class Conditioner:
    """Encodes prompts with placeholders, which index `vectors`: for each text encoder a matrix (n, width)."""

    def __init__(
        self, model: StableDiffusion, placeholders: Sequence[Placeholder], vectors: Mapping[str, torch.Tensor]
    ) -> None:
        self.model = model
        self._encoders, self._vectors = model.prompt_encoder.encoders, vectors
        self._max_tokens = model.tokenizer.max_tokens
        self._matcher = PlaceholderMatcher(placeholders, model.prompt_encoder.tokenizer)
        self._cache: dict[tuple[str, ...], Context] = {}

    def encode(self, texts: Sequence[str]) -> Context:
        """The prompts' context in fp32: hidden states (b, chunks · tokens, width) as long as the longest prompt's, and pooled.

        The mean is restored over the whole batch, so with attention weights a prompt's result depends on the other prompts.
        """
        key = tuple(texts)
        if key not in self._cache:
            self._cache[key] = self._encode(key)
        return self._cache[key]

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Context:
        chunked = {
            name: [split_into_chunks(text, self._matcher, encoder.tokenizer, self._max_tokens) for text in texts]
            for name, encoder in self._encoders.items()
        }
        count = max(len(prompt) for prompts in chunked.values() for prompt in prompts)
        hidden_states, pooled = [], None
        for i in range(count):
            by_encoder = []
            for name, prompts in chunked.items():
                batch = [prompt[i] if i < len(prompt) else empty_chunk(self._max_tokens) for prompt in prompts]
                states, pooled_output = self._encode_chunks(name, batch)
                by_encoder.append(states)
                if i == 0 and pooled_output is not None:
                    pooled = pooled_output
            hidden_states.append(torch.cat(by_encoder, dim=-1))
        return Context(torch.cat(hidden_states, dim=1), pooled)

    def _encode_chunks(self, name: str, batch: Sequence[Chunk]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One chunk per prompt: hidden states (b, tokens, width) with the attention weights applied, and the pooled output."""
        unique = list(dict.fromkeys(batch))
        states, pooled = self._encoders[name].encode(unique, self._vectors[name])
        indices = torch.tensor([unique.index(chunk) for chunk in batch], device=states.device)
        states = apply_weights(states[indices].float(), [chunk.weights for chunk in batch])
        return states, None if pooled is None else pooled[indices].float()


def apply_weights(hidden_states: torch.Tensor, weights: Sequence[Sequence[float]]) -> torch.Tensor:
    """Hidden states (b, tokens, width) times a weight for each token, scaled back to their mean over the whole batch."""
    factors = torch.tensor(weights, dtype=hidden_states.dtype, device=hidden_states.device).unsqueeze(
        -1
    )  # (b, tokens, 1)
    if bool((factors == 1).all()):
        return hidden_states
    product = hidden_states * factors
    return product * (hidden_states.mean() / product.mean())
