"""What a report says about a run, gathered from its folder alone, so that old runs can have one too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lib_ti.runs.events import TERMINAL_KINDS, Event, RunHistory
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report.pictures import Looks, looks_of
from lib_ti.settings.train_settings import DEFAULTS, TrainSettings

MAX_PICTURES = 60  # that are looked at; of more, these stand for all

_PLACES = frozenset(
    {"images", "contrast_images", "name", "model", "vae", "out", "runs_dir", "overwrite", "template_file", "device"}
)
"""Options that say where something is, and not how it was trained; the page shows those that matter by themselves."""
_RESOLVED = frozenset({"learning_rate", "lr_schedule", "resolution", "precision", "captions"})
"""Options whose "auto" is stored as what it became."""


@dataclass(frozen=True)
class Validation:
    """The validation loss after a step. `change`: since step 0, on the same draws; `interval`: half of its 95 % interval."""

    step: int
    loss: float
    change: float | None = None
    interval: float | None = None


@dataclass(frozen=True)
class TrainingPicture:
    """A picture that was learned from; `number` counts from 1."""

    number: int
    looks: Looks
    captioned: bool = False


@dataclass(frozen=True)
class RunFacts:
    """All that a report needs to know of a run beside its images.

    Attributes:
        settings: with every "auto" resolved.
        state: finished, stopped, failed or training.
        last_step: the last step that was trained.
        message: why it failed, or why it finished before its last step.
        losses, smoothed_losses, norms, similarities: (step, value) of every step.
        validations: in order.
        best: the step to use and why, if the run says so.
        delivered: the step of the finished embedding; None before there is one.
        pictures: those it learned from, or the first of them.
        picture_count: how many there are.
        tests: its test pictures by label.
        vocabulary_norm: the mean norm of the checkpoint's own words; None if it is not known.
        warnings: each once.
        seconds: spent training, without pauses between stop and resume.
    """

    settings: TrainSettings
    state: str = "finished"
    last_step: int = 0
    message: str = ""
    losses: Sequence[tuple[int, float]] = ()
    smoothed_losses: Sequence[tuple[int, float]] = ()
    norms: Sequence[tuple[int, float]] = ()
    similarities: Sequence[tuple[int, float]] = ()
    validations: Sequence[Validation] = ()
    best: tuple[int, str] | None = None
    delivered: int | None = None
    pictures: Sequence[TrainingPicture] = ()
    picture_count: int = 0
    tests: Mapping[str, Looks] = field(default_factory=dict)
    vocabulary_norm: float | None = None
    warnings: Sequence[str] = ()
    seconds: float = 0.0

    def with_vocabulary_norm(self, norm: float) -> RunFacts:
        """These facts, with the mean norm of the checkpoint's own words."""
        return dataclasses.replace(self, vocabulary_norm=norm)

    @property
    def best_validation(self) -> Validation | None:
        """The validation of the best step, or the one with the lowest loss."""
        if self.best and (found := next((v for v in self.validations if v.step == self.best[0]), None)):
            return found
        return min(self.validations, key=lambda validation: validation.loss, default=None)

    @property
    def delivered_validation(self) -> Validation | None:
        """The validation of the finished embedding; of the best step as long as there is none, or where it was not measured."""
        return next((v for v in self.validations if v.step == self.delivered), None) or self.best_validation


def gather_facts(folder: RunFolder, history: RunHistory, with_pictures: bool = True) -> RunFacts:
    """The facts of a run, up to now. Raises UnusableFile if its settings cannot be read.

    `with_pictures`: also those that only opening its pictures tells.
    """
    settings = folder.settings
    files = sorted(path for path in folder.images.glob("*.png") if not path.name.endswith(".mask.png"))
    files = files if with_pictures else []
    looks = [(i, path, looks_of(path)) for i, path in enumerate(files[:MAX_PICTURES], 1)]
    last = history.last
    best = history.best.data if history.best else None
    return RunFacts(
        settings=settings,
        state=last.kind if last and last.kind in TERMINAL_KINDS else "training",
        last_step=history.last_step(),
        message=str(last.data.get("message") or last.data.get("reason") or "") if last else "",
        losses=_curve(history, "loss"),
        smoothed_losses=_curve(history, "smoothed_loss"),
        norms=_curve(history, "norm"),
        similarities=_curve(history, "similarity"),
        validations=[
            Validation(step, loss, _number(event, "change"), _number(event, "interval"))
            for step, event in sorted(history.validations.items())
            if (loss := _number(event, "loss")) is not None
        ],
        best=(best["step"], str(best.get("reason", ""))) if best else None,
        delivered=_delivered_step(history, settings),
        pictures=[TrainingPicture(i, look, path.with_suffix(".txt").exists()) for i, path, look in looks if look],
        picture_count=len(files),
        tests=_tests(folder, history) if with_pictures else {},
        warnings=list(dict.fromkeys(str(event.data.get("message", "")) for event in history.warnings)),
        seconds=_seconds_trained(history),
    )


def changed_settings(settings: TrainSettings) -> dict[str, Any]:
    """The settings that differ from their defaults and say how the training went, and those that "auto" became."""
    return {
        name: value
        for name, default in DEFAULTS.items()
        if name not in _PLACES and ((value := getattr(settings, name)) != default or name in _RESOLVED)
    }


def _delivered_step(history: RunHistory, settings: TrainSettings) -> int | None:
    if history.last is None or history.last.kind != "finished":
        return None
    return history.best.data["step"] if history.best and settings.keep == "best" else history.last_step()


def _curve(history: RunHistory, name: str) -> list[tuple[int, float]]:
    numbers = ((step, _number(event, name)) for step, event in sorted(history.steps.items()))
    return [(step, value) for step, value in numbers if value is not None]


def _number(event: Event, name: str) -> float | None:
    value = event.data.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tests(folder: RunFolder, history: RunHistory) -> dict[str, Looks]:
    labels = {index: str(event.data.get("label", "")) for index, event in history.tests.items()}
    found = {label: looks_of(folder.test(index)) for index, label in sorted(labels.items())}
    return {label: look for label, look in found.items() if look}


def _seconds_trained(history: RunHistory) -> float:
    """The time between steps, where it is no longer than a pause for previews may be."""
    times = [history.steps[step].time for step in sorted(history.steps)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
    return sum(gap for gap in gaps if 0 <= gap <= max(600.0, 50 * usual))
