"""Whether settings suit the family of their checkpoint, and what "auto" becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_ti.errors import Problem
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.families import family_titles
from lib_ti.settings.lr_schedule import default_schedule
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, TrainSettings
from lib_ti.text import option_flag


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
        found.changes["lr_schedule"] = default_schedule(rate)
    if len(family.encoders) > 1:
        if settings.learning_rate_2 == "auto":
            found.changes["learning_rate_2"] = rate
    elif settings.train_encoders == "clip_g":
        reason = f"{family.title} has one text encoder, so there is no CLIP-G to train"
        found.problems.append(Problem("train_encoders", reason))
    for name, option in OPTIONS.items():
        if not option.applies_to(family.name) and getattr(settings, name) != DEFAULTS[name]:
            found.warnings.append(f"{option_flag(name)} is not used: it is for {family_titles(option.families)} alone")
    if settings.clip_skip and settings.clip_skip > checkpoint.num_hidden_layers:
        reason = f"the text encoder of this checkpoint has {checkpoint.num_hidden_layers} layers"
        found.problems.append(Problem("clip_skip", reason))
    if settings.preview_every and settings.preview_steps >= checkpoint.noise_schedule.num_train_timesteps:
        reason = (
            f"this checkpoint knows {checkpoint.noise_schedule.num_train_timesteps} times; give fewer sampling steps"
        )
        found.problems.append(Problem("preview_steps", reason))
    return found


def told_start(settings: TrainSettings, checkpoint: Checkpoint, given: Mapping[str, object]) -> str:
    """What an embedding file says of its start, where that was an embedding with vectors for the encoders in `given`."""
    name = settings.init_embedding.stem if settings.init_embedding else "an embedding"
    rest = [encoder for encoder in checkpoint.text_encoders if encoder not in given]
    return name if not rest else f"{name} ({', '.join(given)}), {settings.init_text} ({', '.join(rest)})"
