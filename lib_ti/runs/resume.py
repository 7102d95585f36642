"""Making a run that exists ready to go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lib_ti.errors import BadInput, Problem, RunBusy, UnusableFile
from lib_ti.model.speed.device import choose_device
from lib_ti.runs.execute import checkpoint_of
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.option import RawValue
from lib_ti.settings.train_settings import CHANGEABLE_ON_RESUME, REQUIRED, TrainSettings, parse
from lib_ti.training.preflight.output_paths import unwritable


def resume(folder: RunFolder, given: Mapping[str, RawValue]) -> bool:
    """Check that a run can go on with the options `given`, and store them. False if it is finished with them already.

    Raises BadInput, UnusableFile or RunBusy.
    """
    if folder.running:
        raise RunBusy(f"{folder.path} is being trained by another process")
    settings = folder.settings
    asked, problems = parse({**dict.fromkeys(REQUIRED, "x"), **given})
    problems += [Problem(name, "cannot change any more in this run") for name in given.keys() - CHANGEABLE_ON_RESUME]
    done = folder.saved_step
    if "steps" in given and not problems and asked.steps < done:
        problems.append(Problem("steps", f"the run has made {done} steps already; give a larger total"))
    if problems:
        raise BadInput(problems)
    settings = dataclasses.replace(settings, **{name: getattr(asked, name) for name in given})
    _check(settings, folder)
    if done >= settings.steps and (settings.out / f"{settings.name}.safetensors").exists():
        return False
    folder.store_settings(settings)
    return True


def _check(settings: TrainSettings, folder: RunFolder) -> None:
    """What a run needs from outside must still be there. Raises BadInput or UnusableFile."""
    if not settings.model.exists():
        raise UnusableFile(settings.model, "the checkpoint of this run is not there any more; put it back to go on")
    checkpoint_of(settings)
    problems = []
    try:
        choose_device(settings.device)
    except ValueError as error:
        problems.append(Problem("device", str(error)))
    if reason := unwritable(settings.out, parents=False):
        problems.append(Problem("out", reason))
    if not folder.images.is_dir() and not settings.images.is_dir():
        problems.append(Problem("images", f"{settings.images} is gone, and the run has no copies of its pictures yet"))
    if problems:
        raise BadInput(problems)
