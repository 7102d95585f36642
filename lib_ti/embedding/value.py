"""An embedding: the learned vectors under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lib_ti.model.checkpoint.families import FAMILIES


@dataclass(frozen=True)
class Embedding:
    """`vectors`: (n, width) fp32 for each text encoder, by its name in files ("clip_l")."""

    name: str
    vectors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_vectors(self) -> int:
        """Vectors per text encoder, and so tokens in a prompt."""
        return next(iter(self.vectors.values())).shape[0]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(vectors.shape[1] for vectors in self.vectors.values())

    @property
    def widths_by_encoder(self) -> dict[str, int]:
        return {encoder: vectors.shape[1] for encoder, vectors in self.vectors.items()}

    @property
    def has_zero_vectors(self) -> bool:
        """Whether some vector is all zeros, which no training produces."""
        return any(not vectors.any(dim=1).all() for vectors in self.vectors.values())

    def vectors_for(self, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """The vectors for those text encoders of `widths` (by name) that it has vectors of that width for.

        Files with vectors for a single encoder do not name it; a model with a single encoder can only mean that one.
        """
        single = len(widths) == len(self.vectors) == 1
        by_encoder = dict(zip(widths, self.vectors.values(), strict=True)) if single else self.vectors
        return {
            encoder: by_encoder[encoder]
            for encoder, width in widths.items()
            if encoder in by_encoder and by_encoder[encoder].shape[1] == width
        }

    @property
    def family(self) -> str:
        """The family's name: as the metadata say, if that is possible, else by the widths; "unknown" for other widths."""
        stated = self.metadata.get("family", "")
        num_encoders = {family.name: len(family.encoders) for family in FAMILIES}
        if num_encoders.get(stated) == min(len(self.widths), 2):
            return stated
        return next((family.name for family in FAMILIES if family.widths == tuple(sorted(self.widths))), "unknown")
