"""Less memory where it runs short: the memory mode chosen at the start, and recovery when memory runs out later.

A step that runs out of memory is dropped and repeated with the same draws: with smaller micro-batches, then in the next
memory mode. So no step is lost, and only the rounding of the low mode changes the result.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from lib_ti.errors import TrainingFailed
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import estimate
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.memory.malloc import trim
from lib_ti.model.speed.device import DTYPES
from lib_ti.settings.train_settings import MEMORY_MODES, TrainSettings
from lib_ti.training.recorder import Recorder

log = logging.getLogger("lib_ti")
Result = TypeVar("Result")

_OOM_MESSAGES = ("out of memory", "alloc_failed", "not enough memory", "can't allocate memory")
_MODE_WARNINGS = {
    "balanced": "parts of the model are computed twice from now on, which changes nothing but the time that a step takes",
    "low": "the frozen model is kept in 8 bits from now on, which changes what is learned a little",
}


def is_oom_error(error: BaseException) -> bool:
    """Whether an error means that memory ran out, in torch or in the libraries below it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(m in str(error).lower() for m in _OOM_MESSAGES)


def free_memory() -> None:
    """Return memory that is no longer referenced to the device and the system."""
    gc.collect()
    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def choose_memory_settings(
    settings: TrainSettings, checkpoint: Checkpoint, device: torch.device, recorder: Recorder
) -> TrainSettings:
    """The settings with the memory mode that fits into the device's free memory, and an acceleration possible in it."""
    mode, amounts = settings.memory_modes[0], {}
    family = checkpoint.family.name
    if device.type == "cuda" and checkpoint.unet_parameters == estimate.parameters_of(family):
        free_mb = (
            torch.cuda.mem_get_info(device)[0] / 2**20 + estimate.CONTEXT_MB
        )  # this process has its context already
        resolution = settings.resolution or checkpoint.resolution
        mode, needed_mb = estimate.pick_memory_mode(
            settings, family, settings.precision, resolution, free_mb, on_gpu=True
        )
        amounts = {"needed_mb": round(needed_mb), "free_mb": round(free_mb)}
    acceleration = memory_modes.available_acceleration(settings.acceleration, mode, device, DTYPES[settings.precision])
    return _record(settings, replace(settings, memory=mode, acceleration=acceleration), recorder, **amounts)


def retry_on_oom(
    work: Callable[[TrainSettings], Result],
    settings: TrainSettings,
    recorder: Recorder,
    model: StableDiffusion | None = None,
    cleanup: Callable[[], object] = lambda: None,
    in_micro_batches: bool = False,
) -> tuple[Result, TrainSettings]:
    """The result of `work(settings)`, repeated with settings that need less memory while it runs out; and those settings.

    `model`: the loaded model, which is changed along. `cleanup`: drop the partial results of a failed attempt.
    `in_micro_batches`: `work` takes `settings.batch_size` images at a time. The recorder stores new settings, so that a
    resumed run begins with them. Raises TrainingFailed where nothing is left to try.
    """
    while True:
        try:
            return work(settings), settings
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            log.info("out of memory: %s", error)
        cleanup()  # outside the except block: the error's traceback holds the tensors of the failed attempt
        free_memory()
        settings = _reduce_memory(settings, recorder, model, in_micro_batches)


def _reduce_memory(
    settings: TrainSettings, recorder: Recorder, model: StableDiffusion | None, in_micro_batches: bool
) -> TrainSettings:
    mode = settings.memory_modes[0]
    if model and model.cuda_graphs:  # CUDA graphs hold a step's memory between steps
        return disable_cuda_graphs(settings, recorder, model, "the memory ran out")
    if in_micro_batches and settings.batch_size > 1:
        divisors = (n for n in range(settings.batch_size // 2, 0, -1) if settings.effective_batch_size % n == 0)
        size = next(divisors)
        message = (
            f"{size} instead of {settings.batch_size} pictures are taken at a time, which changes nothing but the time"
        )
        recorder.event("warning", message=f"the memory ran out: {message}")
        smaller = replace(settings, batch_size=size, gradient_accumulation=settings.effective_batch_size // size)
        return _record(settings, smaller, recorder)
    if mode != MEMORY_MODES[-1]:
        mode = MEMORY_MODES[MEMORY_MODES.index(mode) + 1]
        recorder.event("warning", message=f"the memory ran out: {_MODE_WARNINGS[mode]}")
        settings = _record(settings, replace(settings, memory=mode), recorder)
        if model:
            memory_modes.apply(model, mode)
            memory_modes.reduce_vae_memory(model)
            free_memory()
        return settings
    raise TrainingFailed(
        "there is not enough memory for this training, even with one picture at a time and in the low memory mode; "
        "close what else uses the device, or try a lower --resolution"
    )


def disable_cuda_graphs(
    settings: TrainSettings, recorder: Recorder, model: StableDiffusion, reason: str
) -> TrainSettings:
    """Train without CUDA graphs from now on, after a resume too."""
    model.cuda_graphs = None
    free_memory()
    message = f"steps go without CUDA graphs, which changes nothing but the time: {reason}"
    recorder.event("warning", message=message)
    return _record(settings, replace(settings, acceleration="none"), recorder)


def _record(before: TrainSettings, after: TrainSettings, recorder: Recorder, **amounts: float) -> TrainSettings:
    """Store settings that changed, report the memory settings now in use, and return them."""
    if after != before:
        recorder.save_settings(after)
    mode, size, acceleration = after.memory_modes[0], after.batch_size, after.acceleration
    recorder.event("memory", mode=mode, batch_size=size, acceleration=acceleration, **amounts)
    return after
