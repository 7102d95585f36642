"""The queue as the page shows it: the trainings that wait, how long each will take, and their order.

The actions, each with its parameters and its reply:

    move(run, after)        let a waiting training come after so many others, the one that runs included -> {}
    sample(run)             make previews of the step that the running training is at -> {}
    stop(run)               stop the training that runs, or take a waiting one out of the queue -> {}

`poll` replies with `queue`, a list of {"run", "name", "steps", "seconds"} in order: `seconds` is an estimate, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.api.runs_view import RunsView, run_id

SETTLED_STEPS = 40
"""From so many steps on, the pace of a training says more than what was expected of it."""

MAX_SLOWNESS = 20.0


class QueueView:
    """Answers about the queue of one host. `estimate`: the seconds that a training with some settings takes, or None."""

    def __init__(self, runs: RunsView, queue: RunQueue, estimate: Callable[[TrainSettings], float | None]) -> None:
        self._runs, self._queue, self._estimate = runs, queue, estimate
        self._expected: dict[Path, float | None] = {}
        self._slowness = 1.0  # how much longer the training that runs takes than was expected

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"move": self.move, "stop": self.stop, "sample": self.sample}

    def waiting(self) -> list[dict[str, Any]]:
        """The trainings behind the one that runs or is next, in order."""
        return [row for job in self._queue.jobs()[1:] if (row := self._row(job))]

    def move(self, run: str, after: int) -> dict[str, Any]:
        if not self._queue.move(self._runs.folder(run).path, int(after)):
            raise TextualInversionError("This training is no longer waiting.")
        return {}

    def stop(self, run: str) -> dict[str, Any]:
        if not self._queue.stop(self._runs.folder(run).path):
            raise TextualInversionError("This training is not running.")
        return {}

    def sample(self, run: str) -> dict[str, Any]:
        job = self._queue.find(self._runs.folder(run).path)
        if job is None or job.worker is None or not job.started:
            raise TextualInversionError("Previews are possible once training has begun.")
        job.worker.request_previews()
        return {}

    def seconds_left(self, details: dict[str, Any]) -> float | None:
        """What is left of an active run: one figure, which goes from what was expected to what its pace says.

        `details`: as `RunsView.follow` gives them.
        """
        if details["state"] not in ("queued", "loading", "encoding", "training"):
            return None
        step, steps = details["step"], max(1, details["steps"])
        expected = self._expected_seconds(self._runs.folder(details["id"]).path)
        measured = details["seconds_left"]
        if measured is None:
            return None if expected is None else expected * (1 - step / steps)
        if expected is None:
            return float(measured)
        weight = min(1.0, step / SETTLED_STEPS)
        if weight == 1 and step < steps:
            self._slowness = min(MAX_SLOWNESS, max(1 / MAX_SLOWNESS, measured / (expected * (1 - step / steps))))
        return float(weight * measured + (1 - weight) * expected * (1 - step / steps))

    def forget_estimates(self) -> None:
        """Estimate again, because a training has been measured."""
        self._expected.clear()
        self._slowness = 1.0

    def _row(self, job: Job) -> dict[str, Any] | None:
        try:
            settings = job.folder.settings
        except TextualInversionError:  # damaged by hand while it waits
            return None
        seconds = self._expected_seconds(job.folder.path)
        return {
            "run": run_id(job.folder), "name": settings.name, "steps": settings.steps,
            "seconds": None if seconds is None else seconds * self._slowness,
        }  # fmt: skip

    def _expected_seconds(self, path: Path) -> float | None:
        if path not in self._expected:
            from lib_ti.runs.folder import RunFolder

            self._expected[path] = self._estimate(RunFolder(path).settings)
        return self._expected[path]
