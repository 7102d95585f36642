"""Options that the checkpoint's family or its networks do not support."""

from __future__ import annotations

from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.families import family_titles
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, TrainSettings
from lib_ti.text import option_flag
from lib_ti.training.preflight.findings import Findings


def check_family_options(settings: TrainSettings, checkpoint: Checkpoint, findings: Findings) -> None:
    """Find options that cannot be used with a checkpoint, and warn of those that have no effect."""
    family = checkpoint.family
    if len(family.encoders) == 1 and settings.train_encoders == "clip_g":
        reason = f"{family.title} has one text encoder, so there is no CLIP-G to train"
        findings.add_problem("train_encoders", reason)
    for name, option in OPTIONS.items():
        if not option.applies_to(family.name) and getattr(settings, name) != DEFAULTS[name]:
            findings.warn(f"{option_flag(name)} is not used: it is for {family_titles(option.families)} alone")
    if settings.clip_skip and settings.clip_skip > checkpoint.num_hidden_layers:
        findings.add_problem(
            "clip_skip", f"the text encoder of this checkpoint has {checkpoint.num_hidden_layers} layers"
        )
    if settings.preview_every and settings.preview_steps >= checkpoint.noise_schedule.num_train_timesteps:
        reason = (
            f"this checkpoint knows {checkpoint.noise_schedule.num_train_timesteps} times; give fewer sampling steps"
        )
        findings.add_problem("preview_steps", reason)
