"""Prepares an existing run to be continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lib_ti.errors import BadInput, Problem, RunBusy, UnusableFile
from lib_ti.model.speed.device import choose_device
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.inputs import check_inputs
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import CHANGEABLE_ON_RESUME, REQUIRED, TrainSettings
from lib_ti.training.preflight.output_paths import unwritable_reason
from lib_ti.training.preflight.preflight import open_for_training

MOVABLE = frozenset({"model", "vae", "out"})
"""May be elsewhere when a run is resumed, as on another machine; the files themselves must be the same."""


def resume(folder: RunFolder, changes: Mapping[str, RawValue], force: bool = False) -> bool:
    """Check that a run can continue with its settings changed by `changes`, and store them.

    A run that has ended and is given more steps makes them all: it does not end by itself again. Returns False if the run is
    already finished with them. `force`: go on with other inputs than the run began with. Raises BadInput, UnusableFile or
    RunBusy.
    """
    if folder.running:
        raise RunBusy(f"{folder.path} is being trained by another process")
    settings = folder.settings
    parsed, problems = parse({**dict.fromkeys(REQUIRED, "x"), **changes})
    problems += [
        Problem(name, "cannot change any more in this run")
        for name in sorted(changes.keys() - CHANGEABLE_ON_RESUME - MOVABLE)
    ]
    saved_step = folder.saved_step
    if "steps" in changes and not problems and parsed.steps < saved_step:
        problems.append(Problem("steps", f"the run has made {saved_step} steps already; give a larger total"))
    if problems:
        raise BadInput(problems)
    has_ended = _has_ended(settings, folder)
    values = {name: getattr(parsed, name) for name in changes}
    moved = {name: values[name].absolute() for name in MOVABLE & values.keys() if values[name]}
    settings = dataclasses.replace(settings, **{**values, **moved})
    if has_ended and "steps" in changes:
        settings = dataclasses.replace(settings, early_stop=False)
    _check_places(settings, folder)
    if _has_ended(settings, folder) and (settings.out / f"{settings.name}.safetensors").exists():
        return False
    check_inputs(folder, settings, force)
    folder.store_settings(settings)
    return True


def _has_ended(settings: TrainSettings, folder: RunFolder) -> bool:
    """Whether the last step is made: the last one planned, or the one at which the run ended by itself."""
    return folder.saved_step >= settings.steps or (settings.early_stop and bool(folder.early_end))


def _check_places(settings: TrainSettings, folder: RunFolder) -> None:
    """Check that everything outside the run folder is still there. Raises BadInput or UnusableFile."""
    if not settings.model.exists():
        raise UnusableFile(
            settings.model,
            "the checkpoint of this run is not there any more; put it back to go on, or say with --model where it is now",
        )
    open_for_training(settings)
    problems = []
    try:
        choose_device(settings.device)
    except ValueError as error:
        problems.append(Problem("device", str(error)))
    if reason := unwritable_reason(settings.out, parents=False):
        problems.append(Problem("out", reason))
    if not folder.images.is_dir() and not settings.images.is_dir():
        problems.append(Problem("images", f"{settings.images} is gone, and the run has no copies of its pictures yet"))
    if problems:
        raise BadInput(problems)
