"""Whether settings suit the family of their checkpoint, and what "auto" becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_ti.embedding.fit import starts_a_part, unfit
from lib_ti.embedding.value import Embedding
from lib_ti.errors import Problem
from lib_ti.model.checkpoint import Checkpoint
from lib_ti.settings import TrainSettings


@dataclass
class Suited:
    """`changes`: what takes the place of "auto"."""

    changes: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def suited(settings: TrainSettings, checkpoint: Checkpoint) -> Suited:
    """Look at settings in the light of a checkpoint."""
    found, family = Suited(), checkpoint.family
    found.changes["resolution"] = settings.resolution or checkpoint.resolution
    rate = str(family.learning_rate) if settings.learning_rate == "auto" else settings.learning_rate
    found.changes["learning_rate"] = rate
    if settings.lr_schedule == "auto":
        found.changes["lr_schedule"] = "constant" if ":" in rate else "cosine"
    if len(family.encoders) > 1:
        if settings.learning_rate_2 == "auto":
            found.changes["learning_rate_2"] = rate
    else:
        _one_encoder(settings, checkpoint, found)
    if settings.clip_skip and settings.clip_skip > checkpoint.layers:
        reason = f"the text encoder of this checkpoint has {checkpoint.layers} layers"
        found.problems.append(Problem("clip_skip", reason))
    if settings.preview_every and settings.preview_steps >= checkpoint.noise.steps:
        reason = f"this checkpoint knows {checkpoint.noise.steps} times; give fewer sampling steps"
        found.problems.append(Problem("preview_steps", reason))
    return found


def _one_encoder(settings: TrainSettings, checkpoint: Checkpoint, found: Suited) -> None:
    says = f"{checkpoint.family.title} has one text encoder"
    if settings.learning_rate_2 != "auto":
        found.warnings.append(f"--learning-rate-2 is not used: {says}")
    if settings.train_encoders == "clip_g":
        found.problems.append(Problem("train_encoders", f"{says}, so there is no CLIP-G to train"))


def suits_as_start(
    embedding: Embedding, settings: TrainSettings, checkpoint: Checkpoint | None, init_text_holds: bool
) -> tuple[Problem | None, list[str]]:
    """Whether an embedding can be started from. `init_text_holds`: the settings' words can begin what it does not hold."""
    warnings: list[str] = []
    problem = None
    if checkpoint and (reason := unfit(embedding, checkpoint)):
        if not (part := starts_a_part(embedding, checkpoint)):
            problem = Problem("init_embedding", reason)
        elif not init_text_holds:
            problem = Problem(
                "init_text", f"{embedding.name} starts {part[0]} only; name a word for the other text encoder"
            )
        else:
            rest = " and ".join(name for name in checkpoint.text if name not in part)
            warnings.append(f"{embedding.name} starts {part[0]}; {rest} starts from {settings.init_text!r}")
    if embedding.count != settings.vectors:
        what = "the rest is left out" if embedding.count > settings.vectors else "the last one is repeated"
        warnings.append(f"{embedding.name} has {embedding.count} vectors, the word {settings.vectors}; {what}")
    return problem, warnings


def told_start(settings: TrainSettings, checkpoint: Checkpoint, given: Mapping[str, object]) -> str:
    """What an embedding file says of its start, where that was an embedding with vectors for the encoders in `given`."""
    name = settings.init_embedding.stem if settings.init_embedding else "an embedding"
    rest = [encoder for encoder in checkpoint.text if encoder not in given]
    return name if not rest else f"{name} ({', '.join(given)}), {settings.init_text} ({', '.join(rest)})"
