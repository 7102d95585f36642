"""Whether a checkpoint can use an embedding, or initialize a training with it: both depend on the vectors' widths alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lib_ti.errors import Problem
from lib_ti.model.checkpoint.families import FAMILIES, SDXL, Family, encoder_title
from lib_ti.settings.init_text import init_text
from lib_ti.settings.train_settings import TrainSettings


class EmbeddingInfo(Protocol):
    """An `Embedding`, or the `Summary` of its file. `widths_by_encoder`: of its vectors, by the text encoders' names."""

    @property
    def name(self) -> str: ...
    @property
    def num_vectors(self) -> int: ...
    @property
    def widths_by_encoder(self) -> Mapping[str, int]: ...


class CheckpointInfo(Protocol):
    """A `Checkpoint`, or the `CheckpointInfo` of one."""

    @property
    def family(self) -> Family: ...
    @property
    def widths_by_encoder(self) -> Mapping[str, int]: ...


def incompatibility(embedding: EmbeddingInfo, checkpoint: CheckpointInfo) -> str | None:
    """Why a checkpoint cannot use an embedding: what it is made for, and what would fit. None if it can."""
    widths, required = (tuple(info.widths_by_encoder.values()) for info in (embedding, checkpoint))
    if widths == required:
        return None
    if widths == SDXL.widths[1:]:
        return (
            f"{embedding.name!r} holds only half of an embedding for SDXL, the vectors for CLIP-G (of width 1280); put the file "
            "with the other half beside it, or join the two with: python -m lib_ti convert FIRST SECOND OUT --to safetensors"
        )
    family = next((family for family in FAMILIES if family.widths == widths), None)
    if family:
        made_for, fits = f"{family.title} (vectors of width {_join(widths)})", f"{family.title} checkpoints"
    else:
        made_for, fits = f"models of width {_join(widths)}", "only checkpoints of its width"
    return (
        f"{embedding.name!r} is an embedding for {made_for}, but this {checkpoint.family.title} checkpoint takes vectors of "
        f"width {_join(required)}; it fits {fits}"
    )


def initializable_encoder(widths: Mapping[str, int], required: Mapping[str, int]) -> str | None:
    """Of a checkpoint's two text encoders the one that an embedding for a single encoder can initialize.

    `widths`: of the embedding's vectors, by encoder; `required`: those of the checkpoint's. An embedding for SD 1.x fits SDXL's
    CLIP-L.
    """
    if len(widths) != 1 or len(required) == 1:
        return None
    ((encoder, width),) = widths.items()
    return encoder if required.get(encoder) == width else None


def check_init_embedding(
    embedding: EmbeddingInfo, settings: TrainSettings, checkpoint: CheckpointInfo | None, has_init_text: bool
) -> tuple[Problem | None, list[str]]:
    """The problem with an initial embedding, if any, and notes for the user.

    `has_init_text`: the settings' `init_text` has tokens that can initialize what the embedding has no vectors for.
    """
    notes: list[str] = []
    problem = None
    if checkpoint and (reason := incompatibility(embedding, checkpoint)):
        encoder = initializable_encoder(embedding.widths_by_encoder, checkpoint.widths_by_encoder)
        rest = " and ".join(encoder_title(name) for name in checkpoint.widths_by_encoder if name != encoder)
        if not encoder:
            problem = Problem("init_embedding", reason)
        elif not has_init_text:
            reason = f"{embedding.name!r} starts {encoder_title(encoder)} only; name a word for {rest}"
            problem = Problem("init_text", reason)
        else:
            notes.append(
                f"{embedding.name!r} starts {encoder_title(encoder)}; {rest} starts from {init_text(settings)!r}"
            )
    if embedding.num_vectors != settings.vectors:
        effect = "the rest is left out" if embedding.num_vectors > settings.vectors else "the last one is repeated"
        count = "1 vector" if embedding.num_vectors == 1 else f"{embedding.num_vectors} vectors"
        notes.append(f"{embedding.name!r} has {count}, the word {settings.vectors}; {effect}")
    return problem, notes


def _join(widths: tuple[int, ...]) -> str:
    return " + ".join(map(str, widths))
