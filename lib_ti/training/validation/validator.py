"""Measures the validation loss of a training, keeps its best vectors, and says what the losses mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.training.oom_recovery import free_memory, is_oom_error, retry_on_oom
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState
from lib_ti.training.validation.validation_set import ValidationSet

Export = Callable[[Mapping[str, torch.Tensor], int], bytes]
"""An embedding file with these vectors, of that step."""


@dataclass
class Validator:
    """`validation_set`: None if nothing is measured; `subject`: what it shows, for sentences, such as "the pictures"."""

    state: TrainState
    model: StableDiffusion
    validation_set: ValidationSet | None
    recorder: Recorder
    export: Export
    subject: str
    _durations_s: list[float] = field(default_factory=list)
    _release_graphs: bool = False  # there is not enough memory to keep them meanwhile

    def validate(self, step: int) -> None:
        """Measure the loss of the current step, or of step 0 alone, which comes first; keep the vectors if they are the best."""
        state, history = self.state, self.state.validations
        if self.validation_set is None:
            return
        if 0 not in history.losses:
            self._measure(self.validation_set, 0, state.initial_vectors)
        if not step or 0 not in history.losses:
            return
        vectors = state.averaged_vectors
        self._measure(self.validation_set, state.step, vectors)
        if history.best_step == state.step:
            state.best_vectors = {name: value.clone() for name, value in vectors.items()}
            self.recorder.snapshot(state.step, self.export(state.best_vectors, state.step))
        if history.is_overtrained and state.first_time("overtrained"):
            self.recorder.event(
                "warning",
                message=f"the loss on {self.subject} has been rising since step {history.best_step}, so more training makes the "
                "word worse. That step is kept. You can stop now; next time use fewer steps or a lower learning rate",
            )

    def _measure(self, validation_set: ValidationSet, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        started = time.monotonic()
        state = self.state
        losses, state.settings = retry_on_oom(
            lambda settings: self._losses(validation_set, vectors, settings.batch_size),
            state.settings, self.recorder, self.model, in_micro_batches=True,
        )  # fmt: skip
        self._durations_s.append(time.monotonic() - started)
        if not bool(losses.isfinite().any()):
            return  # in fp16 everything may overflow; the next step will say so
        history = state.validations
        history.losses[step] = losses
        change = history.difference(step, 0)
        self.recorder.event(
            "validation", step=step, loss=history.mean(step), change=change.mean, interval=change.interval,
            best_step=history.best_step,
        )  # fmt: skip

    def _losses(
        self, validation_set: ValidationSet, vectors: Mapping[str, torch.Tensor], batch_size: int
    ) -> torch.Tensor:
        """The losses; if memory runs out, once more without the memory of CUDA graphs, which are captured again afterwards."""
        if self._release_graphs:
            self.model.release_cached_memory()
        try:
            return validation_set.losses(self.model, vectors, batch_size)
        except RuntimeError as error:
            if not is_oom_error(error) or self._release_graphs or not self.model.cuda_graphs:
                raise
        self._release_graphs = True
        free_memory()
        self.model.release_cached_memory()
        return validation_set.losses(self.model, vectors, batch_size)

    def keep_best(self) -> int:
        """Make sure that the best vectors are a snapshot, or the current ones before the first validation; their step."""
        step, vectors = self.best()
        self.recorder.snapshot(step, self.export(vectors, step))
        return step

    def best(self) -> tuple[int, Mapping[str, torch.Tensor]]:
        """The best step and its vectors; before the first validation the current ones."""
        state = self.state
        if state.best_vectors:
            return state.validations.best_step, state.best_vectors
        return state.step, state.averaged_vectors

    def reason(self) -> str:
        """Why the best step is the best, in a sentence for the user."""
        history = self.state.validations
        best, last = history.best_step, history.trained_steps[-1]
        change = history.difference(best, 0)
        if change.mean >= 0:
            return (
                f"the loss on {self.subject} never fell below that of the start: nothing was learned that helps there"
            )
        fallen = f"the loss on {self.subject} has fallen by {-change.mean / history.mean(0):.1%} since the start"
        if best == last:
            return f"{fallen}, and no earlier step was measurably better"
        return f"{fallen}, and no later step was as good"

    def seconds_left(self, end: int) -> float:
        """Expected duration of the validations up to step `end`, from the mean of those so far."""
        interval = self.state.settings.validate_every
        if not interval or not self._durations_s:
            return 0.0
        return (end - self.state.step) / interval * sum(self._durations_s) / len(self._durations_s)
