"""The metadata of a trained embedding: what others need to reproduce or use it, and no date, path or folder.

modelspec.*: Stability AI's Model Metadata Standard 1.0.1.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from lib_ti import __version__
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.settings.init_text import init_text
from lib_ti.settings.parsing import UNSTORED
from lib_ti.settings.train_settings import DEFAULTS, TrainSettings

_OWN_KEYS = {"name", "steps", "vectors", "resolution"}
"""Options that have a metadata key of their own."""

_MACHINE_OPTIONS = {
    "images", "contrast_images", "model", "vae", "out", "runs_dir", "overwrite", "template_file",
    "init_embedding", "device", "latent_cache_mb", "gradient_checkpointing", "gradient_accumulation",
    "consent",
}  # fmt: skip
"""Options about this machine, which say nothing to others."""


def embedding_metadata(
    settings: TrainSettings, checkpoint: Checkpoint, noise: NoiseSchedule, sha256: str, step: int
) -> dict[str, str]:
    """The header of an embedding trained for `step` steps under `noise`: names and values, all text.

    `sha256`: of the checkpoint file. Where any step may become the embedding, those planned are named too: the learning rates
    depend on them.
    """
    family = checkpoint.family
    planned = {"planned_steps": str(settings.steps)} if settings.validate_every and step != settings.steps else {}
    changed = {
        name: value
        for name, value in {**settings.to_json(), **_result_options(settings)}.items()
        if name not in _OWN_KEYS | _MACHINE_OPTIONS
        and not name.startswith(("preview_", "snapshot_", "test_"))
        and value != UNSTORED.get(name, DEFAULTS.get(name))
    }
    return {
        "name": settings.name,
        "family": family.name,
        "vectors": str(settings.vectors),
        "steps": str(step),
        **planned,
        "checkpoint_name": checkpoint.path.stem,
        "checkpoint_sha256": sha256,
        "settings": json.dumps(changed, sort_keys=True),
        "trainer": f"lib_ti {__version__}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.architecture_of(noise.prediction_type)}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/stablediffusion",
        "modelspec.title": settings.name,
        "modelspec.trigger_phrase": settings.name,
        "modelspec.resolution": f"{settings.resolution}x{settings.resolution}",
        "modelspec.prediction_type": noise.prediction_type,
    }


def initial_embedding_text(settings: TrainSettings, checkpoint: Checkpoint, encoders: Collection[str]) -> str:
    """The value of `start` in the metadata: the initial embedding, which has vectors for `encoders`, and the init text."""
    name = settings.init_embedding.stem if settings.init_embedding else "an embedding"
    others = [encoder for encoder in checkpoint.text_encoders if encoder not in encoders]
    return f"{name} ({', '.join(encoders)}), {init_text(settings)} ({', '.join(others)})" if others else name


def _result_options(settings: TrainSettings) -> dict[str, object]:
    """Of the options that trade memory for time, only what affects the result."""
    return {
        "batch_size": settings.effective_batch_size,
        "memory": "low" if settings.memory == "low" else DEFAULTS["memory"],
    }
