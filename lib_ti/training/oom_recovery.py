"""What is done where memory runs short, chosen at the start and on the way.

When it runs out within a step, what the step had done is dropped and it is done again with the same draws: with fewer pictures
at a time, then in the next memory mode. So no step is lost, and only the low mode's rounding can be told from the result.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
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
Done = TypeVar("Done")

_SIGNS = ("out of memory", "alloc_failed", "not enough memory", "can't allocate memory")
_TOLD = {
    "balanced": "parts of the model are computed twice from now on, which changes nothing but the time that a step takes",
    "low": "the frozen model is kept in 8 bits from now on, which changes what is learned a little",
}


def is_oom_error(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, in torch's words or those of the libraries below it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


@dataclass
class OomRecovery:
    """`settings`: as they are by now. What becomes of them is kept by the recorder, so that a resume begins there."""

    settings: TrainSettings
    recorder: Recorder

    @property
    def mode(self) -> str:
        """The memory mode."""
        return self.settings.memory_modes[0]

    def choose(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Settle the mode, on a card, where it is left open, the first that fits into what is free; and the acceleration."""
        s, modes, told = self.settings, self.settings.memory_modes, {}
        mode = modes[0]
        family = checkpoint.family.name
        if device.type == "cuda" and checkpoint.unet_parameters == estimate.parameters_of(family):
            free = torch.cuda.mem_get_info(device)[0] / 2**20 + estimate.CONTEXT_MB  # which is taken by now
            work = estimate.Work.of(s, s.resolution or checkpoint.resolution)
            mode, needed = estimate.fitting(modes, family, s.precision, work, free)
            told = {"needed_mb": round(needed), "free_mb": round(free)}
        acceleration = memory_modes.available_acceleration(s.acceleration, mode, device, DTYPES[s.precision])
        self._settle(replace(s, memory=mode, acceleration=acceleration), **told)

    def attempt(
        self,
        work: Callable[[], Done],
        model: StableDiffusion | None,
        drop: Callable[[], None] = lambda: None,
        in_batches: bool = False,
    ) -> Done:
        """The result of `work`, which is done again after each relief. `drop`: forget what was done in part.

        `in_batches`: it takes as many pictures at a time as the settings say. Raises TrainingFailed where nothing is left to
        be done.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
                log.info("no memory left: %s", error)
            drop()  # only now, with the error gone, is let go of what the failed work held
            give_back()
            self._give_way(model, in_batches)

    def _give_way(self, model: StableDiffusion | None, in_batches: bool) -> None:
        s = self.settings
        if model and model.cuda_graphs:  # which hold on to a step's memory between steps
            self.leave_graphs(model, "the memory ran out")
        elif in_batches and s.batch_size > 1:
            fewer = next(n for n in range(s.batch_size // 2, 0, -1) if s.effective_batch_size % n == 0)
            smaller = replace(s, batch_size=fewer, gradient_accumulation=s.effective_batch_size // fewer)
            self._tell(
                f"{fewer} instead of {s.batch_size} pictures are taken at a time, which changes nothing but the time"
            )
            self._settle(smaller)
        elif self.mode != MEMORY_MODES[-1]:
            mode = MEMORY_MODES[MEMORY_MODES.index(self.mode) + 1]
            self._tell(_TOLD[mode])
            self._settle(replace(s, memory=mode))
            if model:
                memory_modes.apply(model, mode)
                memory_modes.reduce_vae_memory(model)
                give_back()
        else:
            raise TrainingFailed(
                "there is not enough memory for this training, even with one picture at a time and in the low memory mode; "
                "close what else uses the device, or try a lower --resolution"
            )

    def leave_graphs(self, model: StableDiffusion, why: str) -> None:
        """Let the steps go without CUDA graphs from now on, after a resume too."""
        model.cuda_graphs = None
        give_back()
        message = f"steps go without CUDA graphs, which changes nothing but the time: {why}"
        self.recorder.event("warning", message=message)
        self._settle(replace(self.settings, acceleration="none"))

    def _tell(self, what: str) -> None:
        self.recorder.event("warning", message=f"the memory ran out: {what}")

    def _settle(self, settings: TrainSettings, **told: float) -> None:
        if settings != self.settings:
            self.recorder.settle(settings)
        self.settings = settings
        self.recorder.event(
            "memory", mode=self.mode, batch_size=settings.batch_size, acceleration=settings.acceleration, **told
        )


def give_back() -> None:
    """Let go of memory that nothing refers to any more."""
    gc.collect()
    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
