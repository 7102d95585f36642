"""What a UNet is told of prompts, computed as AUTOMATIC1111 does with its default settings.

A prompt goes through each text encoder in chunks, whose features stand one behind the other. A token's features are multiplied
by its weight; then all features are scaled so that their mean is what it was before. What is pooled is the first chunk's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.chunks import Chunk, empty_chunk, split_into_chunks
from lib_ti.model.prompt.placeholder import Placeholder, PlaceholderMatcher
from lib_ti.model.prompt.text_encoder import Context


class Conditioner:
    """Encodes prompts that name learned words. Their rows are those of `vectors`, for each text encoder (n, width)."""

    def __init__(
        self, model: StableDiffusion, words: Sequence[Placeholder], vectors: Mapping[str, torch.Tensor]
    ) -> None:
        self.model = model
        self._encoders, self._vectors, self._room = model.text.encoders, vectors, model.tokenizer.max_tokens
        self._named = PlaceholderMatcher(words, model.text.tokenizer)
        self._known: dict[tuple[str, ...], Context] = {}

    def encode(self, texts: Sequence[str]) -> Context:
        """The context of prompts, features (b, chunks · tokens, width) and what is pooled, fp32; as long as the longest.

        One mean is kept for all of them, so a prompt has other features in other company where any has weights.
        """
        asked = tuple(texts)
        if asked not in self._known:
            self._known[asked] = self._encode(asked)
        return self._known[asked]

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Context:
        divided = {
            name: [split_into_chunks(text, self._named, encoder.tokenizer, self._room) for text in texts]
            for name, encoder in self._encoders.items()
        }
        count = max(len(parts) for prompts in divided.values() for parts in prompts)
        features, pooled = [], None
        for i in range(count):
            side_by_side = []
            for name, prompts in divided.items():
                batch = [parts[i] if i < len(parts) else empty_chunk(self._room) for parts in prompts]
                found, summary = self._features(name, batch)
                side_by_side.append(found)
                if i == 0 and summary is not None:
                    pooled = summary
            features.append(torch.cat(side_by_side, dim=-1))
        return Context(torch.cat(features, dim=1), pooled)

    def _features(self, name: str, batch: Sequence[Chunk]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One chunk of each prompt: features (b, tokens, width) with the weights in them, and what is pooled."""
        distinct = list(dict.fromkeys(batch))
        features, pooled = self._encoders[name].encode(distinct, self._vectors[name])
        places = torch.tensor([distinct.index(chunk) for chunk in batch], device=features.device)
        features = weighted(features[places].float(), [chunk.weights for chunk in batch])
        return features, None if pooled is None else pooled[places].float()


def weighted(features: torch.Tensor, weights: Sequence[Sequence[float]]) -> torch.Tensor:
    """Features (b, tokens, width) times a weight for each token, of the same mean over all as before."""
    factors = torch.tensor(weights, dtype=features.dtype, device=features.device).unsqueeze(-1)  # (b, tokens, 1)
    if bool((factors == 1).all()):
        return features
    product = features * factors
    return product * (features.mean() / product.mean())
