"""An embedding: the learned vectors under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Embedding:
    """`vectors`: for each text encoder, by its name in files ("clip_l"), its (n, width) fp32."""

    name: str
    vectors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_vectors(self) -> int:
        """Tokens it takes up in a prompt."""
        return next(iter(self.vectors.values())).shape[0]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(v.shape[1] for v in self.vectors.values())

    @property
    def has_zeros(self) -> bool:
        """Whether some of its vectors are nothing but zeros, as no training leaves them."""
        return any(not vectors.any(dim=1).all() for vectors in self.vectors.values())

    @property
    def widths_by_encoder(self) -> dict[str, int]:
        return {name: v.shape[1] for name, v in self.vectors.items()}

    def fitted(self, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Its vectors for text encoders of these widths, as far as it has them.

        Files of a single encoder do not say which one; where there is only one, it is that.
        """
        alone = len(widths) == len(self.vectors) == 1
        named = dict(zip(widths, self.vectors.values(), strict=True)) if alone else self.vectors
        return {name: named[name] for name, width in widths.items() if name in named and named[name].shape[1] == width}

    @property
    def family(self) -> str:
        """sd1, sd2 or sdxl as its header tells, if it can be, or its widths; else "unknown"."""
        by_width = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl"}
        told = self.metadata.get("family", "")
        if told in by_width.values() and (told == "sdxl") == (len(self.widths) > 1):
            return told
        return by_width.get(tuple(sorted(self.widths)), "unknown")
