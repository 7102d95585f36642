"""All checks of a request before any weight is read and anything is written.

`preflight` turns settings into a `Plan`, in which "auto" is resolved. All problems are raised together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_ti.embedding.value import Embedding
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight import output_paths
from lib_ti.training.preflight.consent import check_consent
from lib_ti.training.preflight.family_options import check_family_options
from lib_ti.training.preflight.findings import Findings
from lib_ti.training.preflight.initial_embedding import read_initial_embedding
from lib_ti.training.preflight.learning_rates import check_learning_rates
from lib_ti.training.preflight.prompts import check_prompts
from lib_ti.training.preflight.resolve_auto import resolve_checkpoint_options, resolve_device_options
from lib_ti.training.preflight.training_images import check_images, read_captions, resolve_caption_source, summarize

DEFAULT_PROMPT_LENGTH = 77  # tokens; assumed where the checkpoint cannot be read


@dataclass(frozen=True)
class Plan:
    """A training that can be carried out. Its settings have no "auto" left whose value must stay the same on a resume.

    `auto`: the options that were "auto" in the request and have a value now, or get one when the training starts.
    `pictures`: one line about what is used of the folder of images, and what is not.
    """

    settings: TrainSettings
    templates: Sequence[str]
    initial_embedding: Embedding | None
    warnings: Sequence[str]
    auto: Sequence[str] = ()
    pictures: str = ""


def preflight(settings: TrainSettings, problems: Sequence[Problem] = ()) -> Plan:
    """Check a request against files, folders and devices. `problems`: known ones; their options are not checked.

    Raises BadInput with all problems.
    """
    findings = Findings(list(problems))
    checkpoint = _open_checkpoint(settings, findings)
    checked = check_images(settings, findings)
    sizes = [*checked.sizes]
    caption_source = resolve_caption_source(settings, checked.files)
    captions = read_captions(checked, caption_source, settings.name, findings)
    summary = summarize(checked, captions, caption_source, settings.masks)
    if settings.contrast_images:
        contrast = check_images(settings, findings, "contrast_images")
        sizes += contrast.sizes
        summary += f"; {settings.contrast_images}: {summarize(contrast, (), 'none', False)}"
    prompt_length = checkpoint.prompt_length if checkpoint else DEFAULT_PROMPT_LENGTH
    templates = check_prompts(settings, captions, prompt_length, findings)
    initial_embedding = read_initial_embedding(settings, checkpoint, findings)
    output_paths.check(settings, findings)
    check_consent(settings, findings)
    resolved: dict[str, Any] = {"captions": caption_source}
    parameters, resolution = (checkpoint.unet_parameters, checkpoint.resolution) if checkpoint else (0, 0)
    resolved |= resolve_device_options(settings, parameters, settings.resolution or resolution, findings)
    if checkpoint:
        resolved |= resolve_checkpoint_options(settings, checkpoint)
        check_family_options(settings, checkpoint, findings)
        check_learning_rates(settings, [*checkpoint.widths_by_encoder.values()], findings)
        output_paths.check_disk_space(settings, sizes, settings.resolution or checkpoint.resolution, findings)
    if findings.problems or checkpoint is None:
        raise BadInput(findings.problems)
    auto = [name for name in ("init_text", *resolved) if getattr(settings, name) in (None, "auto")]
    return Plan(replace(settings, **resolved), templates, initial_embedding, findings.warnings, auto, summary)


def open_for_training(settings: TrainSettings) -> Checkpoint:
    """Open the checkpoint that the settings name, with their VAE, prediction type and CLIP skip. Raises UnusableFile."""
    checkpoint = open_checkpoint(settings.model)
    if settings.vae:
        checkpoint = with_vae(checkpoint, settings.vae)
    return checkpoint.with_overrides(settings.prediction, settings.zero_terminal_snr, settings.clip_skip)


def _open_checkpoint(settings: TrainSettings, findings: Findings) -> Checkpoint | None:
    """The checkpoint with the VAE and the overrides of the settings."""
    if findings.has_problem("model"):
        return None
    try:
        checkpoint = open_checkpoint(settings.model).require_full_vocabulary()
    except UnusableFile as error:
        findings.add_problem("model", error)
        return None
    if settings.vae and not findings.has_problem("vae"):
        try:
            checkpoint = with_vae(checkpoint, settings.vae)
        except UnusableFile as error:
            findings.add_problem("vae", error)
    elif checkpoint.vae is None and not findings.has_problem("vae"):
        findings.add_problem("vae", f"{settings.model.name} has no VAE of its own; name a VAE file for it")
    return checkpoint.with_overrides(settings.prediction, settings.zero_terminal_snr, settings.clip_skip)
