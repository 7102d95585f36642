"""The training loop: batch, step, and whatever is due after it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory.peak import peak_mb
from lib_ti.model.sampling import Interrupted
from lib_ti.settings.lr_schedule import LrSchedule, is_piecewise, parse_learning_rate
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import Batch, DataLoader
from lib_ti.training.health.norms import norm_ratio, norm_warning
from lib_ti.training.health.prediction_check import check_loss
from lib_ti.training.health.rollback import Rollback
from lib_ti.training.oom_recovery import disable_cuda_graphs, retry_on_oom
from lib_ti.training.optimization.contrast import Contrast, ContrastBatch
from lib_ti.training.preview import Previews
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState
from lib_ti.training.step import NonFinite, update
from lib_ti.training.validation.early_stop import StopPlan, plan_stop
from lib_ti.training.validation.validator import Validator

StepIndices = tuple[list[int], list[int]]

SAVE_INTERVAL_S = 5.0  # a killed run loses at most this much training, and a preview
PACE_STEPS = 50  # steps that the reported speed is averaged over


def is_due(step: int, interval: int | None, total_steps: int) -> bool:
    """Whether something that happens every `interval` steps (0: never) is due after `step`; it always is after the last."""
    return interval is not None and interval > 0 and (step % interval == 0 or step == total_steps)


@dataclass
class Loop:
    """A training in progress. `long_norms`: by text encoder, what `health.norms` compares the vectors' norms with.

    `contrast`: good images, for a negative embedding.

    `stop_requested` and `preview_requested` are asked between steps.
    """

    model: StableDiffusion
    state: TrainState
    dataloader: DataLoader
    previews: Previews
    validator: Validator
    recorder: Recorder
    long_norms: Mapping[str, float]
    stop_requested: Callable[[], bool]
    preview_requested: Callable[[], bool] = lambda: False
    contrast: Contrast | None = None
    _step_times_s: deque[float] = field(default_factory=lambda: deque(maxlen=PACE_STEPS))
    _plan: StopPlan = field(default_factory=lambda: StopPlan(0))

    def run(self) -> bool:
        """Train to the last step; False if it was stopped before. The state is saved in either case.

        Raises TrainingFailed, and health.rollback.ReloadNeeded.
        """
        state = self.state
        rollback = Rollback(state, self.recorder, self.model.dtype, self.validator.keep_best)
        last_save = time.monotonic()
        try:
            self._make_outputs()  # those of the last step, if the run was stopped or killed before they were made
            rollback.after_step()
            if state.step < self._plan.end:
                state.early_end = ""  # the run is trained further
            batches, rates = self._batches(), self._learning_rates()
            while state.step < self._plan.end and not self.stop_requested():
                started = time.monotonic()
                lr = {encoder: self._rate(schedule) for encoder, schedule in rates.items()}
                try:
                    loss = self._train_step(next(batches), lr)
                except NonFinite as failure:
                    self._recover(rollback, failure)
                    batches = self._batches()
                    continue
                self._step_times_s.append(time.monotonic() - started)
                self._report(loss, lr)
                self._warn()
                if (
                    self._make_outputs()
                    or self._preview_if_requested()
                    or time.monotonic() - last_save > SAVE_INTERVAL_S
                ):
                    rollback.after_step()
                    self._save()
                    last_save = time.monotonic()
                rollback.after_step()
        except Interrupted:
            pass  # stopped within a preview; the step before it is complete
        finished = state.step >= self._plan.end and state.last_output_step == state.step
        planned = state.settings.steps
        if finished and state.step < planned:
            state.early_end = (
                f"stopped at step {state.step} of {planned}: the loss on {self.validator.subject} no longer improves"
            )
        self._save()
        return finished

    def _recover(self, rollback: Rollback, failure: NonFinite) -> None:
        """Go back to an earlier step and save that."""
        try:
            rollback.recover(failure)
        finally:
            self._plan = plan_stop(self.state.validations, self.state.settings)
            self._save()

    def _batches(self) -> Iterator[StepIndices]:
        """The images of each step from the current one on, and the good ones."""
        step, size = self.state.step, self.state.settings.effective_batch_size
        good = self.contrast.batch_indices(step, size) if self.contrast else repeat(list[int]())
        return zip(self.dataloader.batch_indices(step, size), good, strict=False)

    def _rate(self, schedule: LrSchedule) -> float:
        """The learning rate of the next step."""
        step = self.state.step
        return schedule.at(step) * self._plan.rate_factor(step) * self.state.recovery.rate_factor

    def _micro_batches(self, indices: StepIndices, batch_size: int) -> Iterator[Batch | ContrastBatch]:
        """Those of the current step; after the images to learn from the good ones, if there are any."""
        step, device = self.state.step, self.model.device
        yield from self.dataloader.micro_batches(step, indices[0], batch_size, device)
        if self.contrast:
            yield from self.contrast.micro_batches(step, indices[1], batch_size, device)

    def _train_step(self, indices: StepIndices, lr: Mapping[str, float]) -> float:
        """One step; repeated with smaller micro-batches or in another memory mode if memory runs out."""
        state, model = self.state, self.model

        def step(settings: TrainSettings) -> float:
            return update(state, model, self._micro_batches(indices, settings.batch_size), lr)

        loss, state.settings = retry_on_oom(
            step, state.settings, self.recorder, model, cleanup=state.optimizer.zero_grad, in_micro_batches=True
        )
        if model.cuda_graphs and (reason := model.cuda_graphs.failure):
            state.settings = disable_cuda_graphs(state.settings, self.recorder, model, reason)
        return loss

    def _learning_rates(self) -> dict[str, LrSchedule]:
        """By text encoder: the first one's schedule, and that of the others. A list of rates is its own schedule."""
        s = self.state.settings
        texts = [s.learning_rate, s.learning_rate if s.learning_rate_2 == "auto" else s.learning_rate_2]
        schedules = ["constant" if is_piecewise(text) else s.lr_schedule for text in texts]
        rates = [
            LrSchedule(parse_learning_rate(text), s.steps, schedule, s.warmup_steps)
            for text, schedule in zip(texts, schedules, strict=True)
        ]
        return {encoder: rates[min(i, 1)] for i, encoder in enumerate(self.state.vectors)}

    def _make_outputs(self) -> bool:
        """Validate, and make the previews and the snapshot due after this step; whether there was anything.

        The validation and the previews of step 0 are made after the first step, so that training starts at once.
        """
        state, settings = self.state, self.state.settings
        self._plan = plan_stop(state.validations, settings)
        if state.last_output_step == state.step:
            return False
        first = state.step == 1
        validation = is_due(state.step, settings.validate_every, self._plan.end)
        if validation or (first and settings.validate_every):
            self.validator.validate(state.step if validation else 0)
            self._plan = plan_stop(state.validations, settings)
        if first and settings.preview_every:
            self.previews.make(0, state.initial_vectors)
        if preview := is_due(state.step, settings.preview_every, self._plan.end):
            self.previews.make(state.step, state.averaged_vectors)
        if snapshot := is_due(state.step, settings.snapshot_every, self._plan.end):
            self.recorder.snapshot(state.step, self.validator.export(state.averaged_vectors, state.step))
        state.last_output_step = state.step
        return validation or preview or snapshot

    def _preview_if_requested(self) -> bool:
        """Make previews between the due ones if they are requested, and keep what they show; whether they were made."""
        if not self.preview_requested():
            return False
        if self.model.vae is None:
            message = "this training was started without previews, so there are none to make"
            self.recorder.event("warning", message=message)
            return False
        step, vectors = self.state.step, self.state.averaged_vectors
        self.previews.make(step, vectors)
        self.recorder.snapshot(step, self.validator.export(vectors, step))
        return True

    def _warn(self) -> None:
        """Say what is wrong with this step, if anything is."""
        state = self.state
        if warning := check_loss(state.step, state.smoothed_loss):
            self.recorder.event("warning", message=warning)
        too_long = norm_warning(norm_ratio(state.vectors, self.long_norms))
        if too_long and state.first_time("norm"):
            self.recorder.event("warning", message=too_long)

    def _save(self) -> None:
        self.recorder.save_state(self.state.to_bytes())

    def _report(self, loss: float, lr: Mapping[str, float]) -> None:
        state, settings = self.state, self.state.settings
        step_s = median(self._step_times_s)  # the first steps, which set things up, take far longer
        first_lr, *other_lrs = lr.values()
        self.recorder.event(
            "step",
            step=state.step,
            steps=self._plan.end,
            loss=loss,
            smoothed_loss=state.smoothed_loss,
            learning_rate=first_lr,
            **({"learning_rate_2": other_lrs[0]} if other_lrs else {}),
            norm=state.norm,
            similarity=state.similarity,
            images_per_s=settings.effective_batch_size / step_s,
            seconds_left=step_s * (self._plan.end - state.step)
            + self.previews.seconds_left(self._plan.end)
            + self.validator.seconds_left(self._plan.end),
            memory_mb=peak_mb(self.model.device),
        )
