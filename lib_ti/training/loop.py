"""The loop: batch, step, and whatever is due after it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory.peak import peak_mb
from lib_ti.model.sampling import Interrupted
from lib_ti.settings.lr_schedule import LrSchedule, is_piecewise, parse_learning_rate
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import BatchSource
from lib_ti.training.oom_recovery import OomRecovery
from lib_ti.training.prediction_check import too_high
from lib_ti.training.preview import Previews
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState
from lib_ti.training.step import update

STATE_EVERY_S = 5.0  # a killed run loses no more than this, and a preview


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens each `every` steps (0: never) happens after step `step`; always after the last."""
    return every > 0 and (step % every == 0 or step == last)


@dataclass
class Loop:
    """A training in progress. `pack` makes an embedding file of the current vectors.

    Between steps `stopped` is asked, and `sample` whether previews are wanted at once.
    """

    settings: TrainSettings
    model: StableDiffusion
    state: TrainState
    source: BatchSource
    previews: Previews
    recorder: Recorder
    pack: Callable[[TrainState], bytes]
    relief: OomRecovery
    stopped: Callable[[], bool]
    sample: Callable[[], bool] = lambda: False
    _pace: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def run(self) -> bool:
        """Train to the last step; False if it was stopped before, with the state saved in either case."""
        s, state = self.settings, self.state
        rates = self._rates()
        saved = time.monotonic()
        batches = self.source.steps(state.step, s.effective_batch_size)
        try:
            self._outputs()  # a stop or a kill may have come between a step and what was due after it
            while state.step < s.steps and not self.stopped():
                began = time.monotonic()
                applied = {encoder: rate.at(state.step) for encoder, rate in rates.items()}
                loss = self._update(next(batches), applied)
                self._pace.append(time.monotonic() - began)
                self._report(loss, applied)
                if doubt := too_high(state.step, state.smoothed_loss):
                    self.recorder.event("warning", message=doubt)
                if self._outputs() or self._asked_for() or time.monotonic() - saved > STATE_EVERY_S:
                    self._save()
                    saved = time.monotonic()
        except Interrupted:
            pass  # a preview was left unfinished; the step before it is whole
        self._save()
        return state.step >= s.steps and state.shown == state.step

    def _update(self, pictures: Sequence[int], applied: Mapping[str, float]) -> float:
        """One step; done again with less at a time where memory runs out."""
        s, state = self.settings, self.state

        def step() -> float:
            at_a_time = self.relief.settings.batch_size
            return update(state, self.model, self.source, pictures, at_a_time, applied, s.clip, s.clip_at)

        loss = self.relief.attempt(step, self.model, state.optimizer.zero_grad, in_batches=True)
        if self.model.cuda_graphs and (why := self.model.cuda_graphs.failure):
            self.relief.leave_graphs(self.model, why)
        return loss

    def _rates(self) -> dict[str, LrSchedule]:
        """For each text encoder, the first one's and the others'; a list of rates is a schedule of its own."""
        s = self.settings
        texts = [s.learning_rate, s.learning_rate if s.learning_rate_2 == "auto" else s.learning_rate_2]
        shapes = ["constant" if is_piecewise(text) else s.lr_schedule for text in texts]
        made = [
            LrSchedule(parse_learning_rate(t), s.steps, shape, s.warmup_steps)
            for t, shape in zip(texts, shapes, strict=True)
        ]
        return {encoder: made[min(i, 1)] for i, encoder in enumerate(self.state.vectors)}

    def _outputs(self) -> bool:
        """Make what is due after this step. The first previews wait for the first step, so that training starts at once."""
        s, state = self.settings, self.state
        if state.shown == state.step:
            return False
        if state.step == 1 and s.preview_every:
            self.previews.make(0, state.start)
        if preview := due(state.step, s.preview_every, s.steps):
            self.previews.make(state.step, state.vectors)
        if snapshot := due(state.step, s.snapshot_every, s.steps):
            self.recorder.snapshot(state.step, self.pack(state))
        state.shown = state.step
        return preview or snapshot

    def _asked_for(self) -> bool:
        """Previews between those that are due, where somebody asks for them."""
        if not self.sample():
            return False
        if self.model.vae is None:
            self.recorder.event(
                "warning", message="this training was started without previews, so there are none to make"
            )
            return False
        self.previews.make(self.state.step, self.state.vectors)
        return True

    def _save(self) -> None:
        self.recorder.save_state(self.state.to_bytes())

    def _report(self, loss: float, applied: Mapping[str, float]) -> None:
        state, pace = self.state, sum(self._pace) / len(self._pace)
        rate, *others = applied.values()
        self.recorder.event(
            "step",
            step=state.step,
            steps=self.settings.steps,
            loss=loss,
            smoothed_loss=state.smoothed_loss,
            learning_rate=rate,
            **({"learning_rate_2": others[0]} if others else {}),
            norm=state.norm,
            similarity=state.similarity,
            images_per_s=self.settings.effective_batch_size / pace,
            seconds_left=pace * (self.settings.steps - state.step) + self.previews.seconds_left(state.step),
            memory_mb=peak_mb(self.model.device),
        )
