"""Which embeddings a checkpoint takes, and which it can at least start from: told by their widths alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lib_ti.errors import Problem
from lib_ti.model.checkpoint.families import Family, encoder_title, family_title
from lib_ti.settings.train_settings import TrainSettings

_SECOND_HALF = (1280,)


class Vectors(Protocol):
    """An `Embedding`, or the `Summary` of its file. Widths go by the text encoder's name; `num_vectors`: tokens it takes up."""

    @property
    def name(self) -> str: ...
    @property
    def num_vectors(self) -> int: ...
    @property
    def widths_by_encoder(self) -> Mapping[str, int]: ...


class Model(Protocol):
    """A `Checkpoint`, or the `CheckpointInfo` of one."""

    @property
    def family(self) -> Family: ...
    @property
    def widths_by_encoder(self) -> Mapping[str, int]: ...


def unfit(embedding: Vectors, checkpoint: Model) -> str | None:
    """Why an embedding cannot be used with a checkpoint: what it is made for, and what fits. None where it can."""
    has, wanted = (tuple(of.widths_by_encoder.values()) for of in (embedding, checkpoint))
    if has == wanted:
        return None
    if has == _SECOND_HALF:
        return (
            f"{embedding.name!r} holds only half of an embedding for SDXL, the vectors for CLIP-G (of width 1280); put the file "
            "with the other half beside it, or join the two with: python -m lib_ti convert FIRST SECOND OUT --to safetensors"
        )
    title = family_title(has)
    known = not title.endswith(_joined(has))
    made_for = f"{title} (vectors of width {_joined(has)})" if known else title
    return (
        f"{embedding.name!r} is an embedding for {made_for}, but this {checkpoint.family.title} checkpoint takes vectors of "
        f"width {_joined(wanted)}; it fits {title if known else 'only'} checkpoints{'' if known else ' of its width'}"
    )


def starts(embedding: Vectors, checkpoint: Model) -> str | None:
    """The text encoder, of a checkpoint that has two, that an embedding for one of them can start: SD1's may start CLIP-L."""
    return part_of(embedding.widths_by_encoder, checkpoint.widths_by_encoder)


def part_of(widths: Mapping[str, int], wanted: Mapping[str, int]) -> str | None:
    """The same, by the widths that an embedding has, and a checkpoint wants, for each text encoder."""
    if len(widths) != 1 or len(wanted) == 1:
        return None
    ((encoder, width),) = widths.items()
    return encoder if wanted.get(encoder) == width else None


def suits_as_start(
    embedding: Vectors, settings: TrainSettings, checkpoint: Model | None, init_text_holds: bool
) -> tuple[Problem | None, list[str]]:
    """Whether an embedding can be started from, and what is to be said of it.

    `init_text_holds`: the settings' words can begin what it does not hold.
    """
    told: list[str] = []
    problem = None
    if checkpoint and (reason := unfit(embedding, checkpoint)):
        part = starts(embedding, checkpoint)
        rest = " and ".join(encoder_title(name) for name in checkpoint.widths_by_encoder if name != part)
        if not part:
            problem = Problem("init_embedding", reason)
        elif not init_text_holds:
            reason = f"{embedding.name!r} starts {encoder_title(part)} only; name a word for {rest}"
            problem = Problem("init_text", reason)
        else:
            told.append(f"{embedding.name!r} starts {encoder_title(part)}; {rest} starts from {settings.init_text!r}")
    if embedding.num_vectors != settings.vectors:
        what = "the rest is left out" if embedding.num_vectors > settings.vectors else "the last one is repeated"
        has = "1 vector" if embedding.num_vectors == 1 else f"{embedding.num_vectors} vectors"
        told.append(f"{embedding.name!r} has {has}, the word {settings.vectors}; {what}")
    return problem, told


def _joined(widths: tuple[int, ...]) -> str:
    return " + ".join(map(str, widths))
