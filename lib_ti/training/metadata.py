"""What an embedding file says of its making: what another person needs to know, and no date, path or folder.

modelspec.*: Stability AI's Model Metadata Standard 1.0.1.
"""

from __future__ import annotations

import json

from lib_ti import __version__
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.settings.train_settings import DEFAULTS, TrainSettings

_TOLD_ELSEWHERE = {"name", "steps", "vectors", "resolution"}
_OF_THIS_MACHINE = {"images", "model", "vae", "out", "runs_dir", "overwrite", "template_file", "init_embedding", "device",
                    "latent_cache_mb", "gradient_checkpointing", "gradient_accumulation"}  # fmt: skip


def describe(
    settings: TrainSettings, checkpoint: Checkpoint, noise: NoiseSchedule, sha256: str, step: int
) -> dict[str, str]:
    """The header of an embedding trained for `step` steps under `noise`: names and values, all text."""
    family = checkpoint.family
    chosen = {
        name: value
        for name, value in {**settings.to_json(), **_what_counts(settings)}.items()
        if name not in _TOLD_ELSEWHERE | _OF_THIS_MACHINE
        and not name.startswith(("preview_", "snapshot_"))
        and value != DEFAULTS.get(name)
    }
    return {
        "name": settings.name,
        "family": family.name,
        "vectors": str(settings.vectors),
        "steps": str(step),
        "checkpoint_name": checkpoint.path.stem,
        "checkpoint_sha256": sha256,
        "settings": json.dumps(chosen, sort_keys=True),
        "trainer": f"lib_ti {__version__}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.architecture_of(noise.prediction_type)}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/stablediffusion",
        "modelspec.title": settings.name,
        "modelspec.trigger_phrase": settings.name,
        "modelspec.resolution": f"{settings.resolution}x{settings.resolution}",
        "modelspec.prediction_type": noise.prediction_type,
    }


def _what_counts(settings: TrainSettings) -> dict[str, object]:
    """Of what trades memory for time, that which can be told from the result."""
    return {
        "batch_size": settings.effective_batch_size,
        "memory": "low" if settings.memory == "low" else DEFAULTS["memory"],
    }
