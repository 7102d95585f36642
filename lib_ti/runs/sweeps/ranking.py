"""Which run of a sweep is the best, by its validation loss, and why; without torch, because the page asks for it too."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report.facts import RunFacts, gather_facts
from lib_ti.runs.report.parts import change_text, number
from lib_ti.runs.sweeps.sweep import Sweep, SweepRun

STANDARD_ERRORS = 2.0  # about the 95 % level

_DRAWS = ("seed", "resolution", "validate_every", "steps", "effective_batch_size")
"""What the draws of the validation depend on beside the pictures; runs that differ in none of them share their draws."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run, its facts, and the loss of each validation draw at the step it delivered; none where they are not known."""

    run: SweepRun
    facts: RunFacts
    losses: Sequence[float] = ()

    @property
    def loss(self) -> float | None:
        """The validation loss of what it delivered."""
        best = self.facts.delivered_validation
        return best.loss if best and self.facts.state == "finished" else None

    @property
    def share(self) -> float:
        """The change of the loss since step 0, as a share of what it was."""
        best = self.facts.delivered_validation
        start = best.loss - best.change if best and best.change is not None else 0.0
        return best.change / start if best and best.change is not None and start > 0 else math.inf


@dataclass(frozen=True)
class Best:
    """The best run and, in a sentence, why it is."""

    run: SweepRun
    reason: str


def measure(sweep: Sweep) -> list[MeasuredRun]:
    """The runs that can still be read, in their order."""
    measured = []
    for run in sweep.existing_runs:
        try:
            facts = gather_facts(run.folder, run.folder.history(), with_pictures=False)
        except (UnusableFile, OSError):
            continue
        best = facts.delivered_validation
        measured.append(MeasuredRun(run, facts, validation_losses(run.folder, best.step) if best else ()))
    return measured


def find_best(runs: Sequence[MeasuredRun]) -> Best | None:
    """The best of the runs that are finished and validated; None if there are none."""
    candidates = [run for run in runs if run.loss is not None]
    if not candidates:
        return None
    if not share_draws(candidates):
        best = min(candidates, key=lambda run: run.share)
        validation = best.facts.delivered_validation
        change = change_text(validation) if validation else ""
        reason = (
            f"its validation loss fell furthest, {change}; the runs were not measured on the same draws, so look too"
        )
        return Best(best.run, reason)
    best, *others = sorted(candidates, key=lambda run: run.loss or 0.0)
    loss = number(best.loss or 0.0)
    if not others:
        return Best(best.run, f"it is the only one that was measured: validation loss {loss}")
    ties = [other for other in others if not _is_worse(other, best)]
    second = others[0]
    worse = (second.loss or 0.0) / (best.loss or 1.0) - 1
    reason = f"it has the lowest validation loss, {loss}; the next, {second.run.name}, has {worse:.1%} more"
    if not ties:
        return Best(best.run, f"{reason}, which is more than chance would explain")
    smaller = min(ties, key=lambda run: run.facts.settings.vectors)
    if smaller.facts.settings.vectors < best.facts.settings.vectors:
        hint = f"{smaller.run.name} is as good within the accuracy of the measurement, with fewer vectors"
    else:
        names = ", ".join(tie.run.name for tie in ties[:3])
        hint = f"{names}{' and others' if len(ties) > 3 else ''} cannot be told from it within the accuracy of the measurement"
    return Best(best.run, f"{reason}; {hint}")


def share_draws(runs: Sequence[MeasuredRun]) -> bool:
    """Whether the runs were validated on the same pictures, noise and timesteps."""
    kinds = {tuple(str(getattr(run.facts.settings, name, "")) for name in _DRAWS) for run in runs}
    images = {run.run.values.get("images", "") for run in runs}
    return len(kinds) == 1 and len(images) == 1 and len({len(run.losses) for run in runs}) == 1


def validation_losses(folder: RunFolder, step: int) -> tuple[float, ...]:
    """The loss of each validation draw after a step, from the run's state; empty where it has none."""
    try:
        header = read_safetensors_header(folder.state)
        steps = json.loads(header.metadata["state"])["validated"]
        shape, dtype = header.tensors["validation.losses"]
        start, _ = header.offsets["validation.losses"]
        row, length = steps.index(step), shape[1]
        if dtype != "F32" or len(shape) != 2:
            return ()
        with folder.state.open("rb") as file:
            file.seek(header.data_start + start + 4 * row * length)
            return struct.unpack(f"<{length}f", file.read(4 * length))
    except (UnusableFile, OSError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return ()


def _is_worse(run: MeasuredRun, best: MeasuredRun) -> bool:
    """Whether its losses are higher than those of the best, by more than chance would explain."""
    pairs = zip(run.losses, best.losses, strict=True)
    differences = [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if len(differences) < 2:
        return False
    mean = sum(differences) / len(differences)
    variance = sum((difference - mean) ** 2 for difference in differences) / (len(differences) - 1)
    return mean > STANDARD_ERRORS * math.sqrt(variance / len(differences))
