"""Which embeddings a checkpoint takes."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.embedding.value import Embedding
from lib_ti.model.checkpoint import Checkpoint
from lib_ti.model.families import title_of


def unfit(embedding: Embedding, checkpoint: Checkpoint) -> str | None:
    """Why an embedding cannot be used with a checkpoint: what it is made for, and what fits. None where it can."""
    if embedding.widths == checkpoint.widths:
        return None
    return (
        f"{embedding.name} is an embedding for {_told(embedding.widths)}, but this {checkpoint.family.title} checkpoint "
        f"takes vectors of width {_joined(checkpoint.widths)}"
    )


def starts_a_part(embedding: Embedding, checkpoint: Checkpoint) -> Sequence[str]:
    """The text encoders, of a checkpoint that has more, that an embedding has vectors for: SD1's may start SDXL's CLIP-L."""
    return tuple(embedding.fitted(checkpoint.widths_by_encoder)) if len(embedding.vectors) == 1 else ()


def _told(widths: tuple[int, ...]) -> str:
    title = title_of(widths)
    return title if title.endswith(_joined(widths)) else f"{title} (vectors of width {_joined(widths)})"


def _joined(widths: tuple[int, ...]) -> str:
    return " + ".join(map(str, widths))
