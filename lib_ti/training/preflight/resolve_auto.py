"""What each "auto" becomes: the one place for preflight, which stores it, and for the form, which shows it.

It imports without torch, because the form must appear at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lib_ti.model.checkpoint.families import Family
from lib_ti.settings.lr_schedule import auto_learning_rate, default_schedule
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings
from lib_ti.training.validation.budget import plan_validations

if TYPE_CHECKING:  # it imports torch
    from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule

SHORT_TRAINING = 200  # images processed
AVERAGED_SHARE, MAX_AVERAGED_STEPS = 0.1, 100

_STORED = ("resolution", "learning_rate", "lr_schedule", "validate_every", "ema_decay", "timestep_sampling")
"""Options whose "auto" is replaced in a run's settings; the others keep it, and the loaded model decides."""
_STORED_FOR_TWO_ENCODERS = (*_STORED, "learning_rate_2")


class CheckpointFacts(Protocol):
    """A `Checkpoint`, or the `CheckpointInfo` of one. `prediction_known`: whether its files or its family state the type."""

    @property
    def family(self) -> Family: ...
    @property
    def widths_by_encoder(self) -> Mapping[str, int]: ...
    @property
    def resolution(self) -> int: ...
    @property
    def noise_schedule(self) -> NoiseSchedule: ...
    @property
    def prediction_known(self) -> bool: ...


def auto_ema_decay(steps: int) -> float:
    """Of an average over about the last tenth of the steps, but at most the last hundred."""
    return (
        max(0.0, round(1 - 1 / min(MAX_AVERAGED_STEPS, AVERAGED_SHARE * steps), 4))
        if AVERAGED_SHARE * steps > 1
        else 0.0
    )


def auto_timestep_sampling(settings: TrainSettings) -> str:
    """Timesteps half-way find a subject sooner; over many images those of all noise levels learn it better."""
    is_short = settings.steps * settings.effective_batch_size < SHORT_TRAINING
    return "logit-normal" if settings.kind == "subject" and is_short else "uniform"


def auto_values(checkpoint: CheckpointFacts, settings: TrainSettings) -> dict[str, Any]:
    """What "auto" means for a checkpoint, by option; None where only the loaded model can say.

    The value does not depend on whether the option is "auto" in `settings`, but on other options.
    """
    family = checkpoint.family
    rates = [f"{auto_learning_rate(width, settings.steps):g}" for width in checkpoint.widths_by_encoder.values()]
    is_auto = settings.learning_rate == "auto"
    side = settings.resolution or checkpoint.resolution
    return {
        "learning_rate": rates[0],
        "learning_rate_2": rates[-1] if is_auto else settings.learning_rate,
        "lr_schedule": "cosine" if is_auto else default_schedule(settings.learning_rate),
        "validate_every": plan_validations(settings.steps, settings.effective_batch_size).interval,
        "ema_decay": auto_ema_decay(settings.steps),
        "timestep_sampling": auto_timestep_sampling(settings),
        "resolution": checkpoint.resolution,
        "clip_skip": family.encoders[0].clip_skip,
        "prediction": checkpoint.noise_schedule.prediction_type if checkpoint.prediction_known else None,
        "zero_terminal_snr": "yes" if checkpoint.noise_schedule.zero_terminal_snr else "no",
        "preview_width": side,
        "preview_height": side,
    }


def resolve_checkpoint_options(settings: TrainSettings, checkpoint: CheckpointFacts) -> dict[str, Any]:
    """The values for options that are "auto" in `settings` and that a run stores resolved."""
    values = auto_values(checkpoint, settings)
    stored = _STORED_FOR_TWO_ENCODERS if len(checkpoint.family.encoders) > 1 else _STORED
    return {name: values[name] for name in stored if getattr(settings, name) in (None, "auto")}


def probably_auto(settings: TrainSettings, checkpoint: CheckpointFacts) -> set[str]:
    """The options of a run whose values are those that "auto" gives, for runs that did not store what was "auto"."""
    as_auto = auto_values(checkpoint, replace(settings, learning_rate="auto"))
    values = as_auto if as_auto["learning_rate"] == settings.learning_rate else auto_values(checkpoint, settings)
    return {name for name in _STORED_FOR_TWO_ENCODERS if values[name] == getattr(settings, name)}


def resolve_device_options(
    settings: TrainSettings, parameters: int, resolution: int, findings: Findings
) -> dict[str, Any]:
    """Precision and acceleration for a UNet of so many parameters, measured on the device. Empty where it lacks something."""
    from lib_ti.model.speed.device import choose_acceleration, choose_device, choose_precision, unused_gpu

    option = "device"
    if findings.has_problem(option):
        return {}
    try:
        device = choose_device(settings.device)
        if settings.device == "auto" and (gpu := unused_gpu()):
            findings.warn(f"Training runs on the CPU, which is slow: {gpu} is not supported, only CUDA devices are")
        option = "precision"
        precision = choose_precision(settings.precision, device, parameters)
        option = "acceleration"
        acceleration = choose_acceleration(settings.acceleration, device, precision, parameters, resolution)
    except ValueError as error:
        findings.add_problem(option, error)
        return {}
    return {"precision": precision, "acceleration": acceleration}


def expected_precision(settings: TrainSettings, device: str, on_gpu: bool, parameters: int) -> str:
    """The precision that `resolve_device_options` will choose, as far as it can be known in the WebUI's own process.

    On a GPU it is exact if this process has a CUDA context; without one it is assumed to be bf16, because creating a context
    takes memory. On a CPU the training process measures for seconds; here bf16 is assumed if the CPU has instructions for it.
    """
    if settings.precision != "auto":
        return settings.precision
    if not on_gpu:
        return "bf16" if _cpu_has_bf16() else "fp32"
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return "bf16"
    from lib_ti.model.speed.device import choose_device, choose_precision

    return choose_precision("auto", choose_device(device), parameters)


@cache
def _cpu_has_bf16() -> bool:
    """Whether the CPU's flags name instructions that multiply bf16; False where the system does not list them."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
