"""Go back to the last good state when numbers stop being finite, and go on more carefully, instead of ending the training.

A state is known to be good only when the training has gone on from it for a while, so two are kept, and the older one is gone
back to. Both are in the state file: a resumed run goes back to the same steps as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lib_ti.errors import TrainingFailed
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState
from lib_ti.training.step import NonFinite
from lib_ti.training.validation.constants import MAX_FAILURES, ROLLBACK_INTERVAL, ROLLBACK_RATE_FACTOR


class ReloadNeeded(Exception):
    """The training goes on, from its saved state, once the model is loaded again with other `settings`."""

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__("the model must be loaded with other settings")
        self.settings = settings


@dataclass
class Rollback:
    """`dtype`: of the frozen model. `keep_best`: save the best vectors so far as a snapshot, and return its step."""

    state: TrainState
    recorder: Recorder
    dtype: torch.dtype
    keep_best: Callable[[], int]

    def after_step(self) -> None:
        """Remember the state when it is time to; call it before the first step and after each."""
        state, recovery = self.state, self.state.recovery
        if recovery.failures and state.step > recovery.failed_step + ROLLBACK_INTERVAL:
            recovery.failures = 0
        if not recovery.points or (state.step % ROLLBACK_INTERVAL == 0 and recovery.points[-1].step != state.step):
            recovery.points = [*recovery.points[-1:], state.capture()]

    def recover(self, failure: NonFinite) -> None:
        """Go back, and lower the learning rate or raise the precision. Raises TrainingFailed or ReloadNeeded.

        The caller saves the state, however this ends.
        """
        state, recovery = self.state, self.state.recovery
        failed_step = state.step + 1
        state.restore(recovery.points[0])
        recovery.points = recovery.points[:1]
        recovery.failures, recovery.failed_step = recovery.failures + 1, failed_step
        if recovery.failures >= MAX_FAILURES:
            recovery.failures = 0  # a resumed run tries again
            raise TrainingFailed(self._farewell(failure))
        back = f"{failure.what} of step {failed_step} was not a number: the training went back to step {state.step}"
        if failure.in_model and self.dtype != torch.float32:
            self._warn(f"{back} and goes on in fp32, which is slower and needs more memory")
            settings = replace(state.settings, precision="fp32")
            self.recorder.save_settings(settings)
            raise ReloadNeeded(settings)
        recovery.rate_factor *= ROLLBACK_RATE_FACTOR
        self._warn(
            f"{back} and goes on with {recovery.rate_factor:.2g} times the learning rate; if you train this again, set a "
            "lower one"
        )

    def _farewell(self, failure: NonFinite) -> str:
        return (
            f"{failure}. The training went back and tried again {MAX_FAILURES - 1} times in vain; the best vectors so far are "
            f"kept as the snapshot of step {self.keep_best()}"
        )

    def _warn(self, message: str) -> None:
        self.recorder.event("warning", message=message)
