"""Prepares an existing run to be continued, with the inputs that it began with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lib_ti.errors import BadInput, Problem, RunBusy, UnusableFile
from lib_ti.model.speed.device import choose_device
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import CHANGEABLE_ON_RESUME, REQUIRED, TrainSettings
from lib_ti.training.preflight.output_paths import unwritable_reason
from lib_ti.training.preflight.preflight import open_for_training
from lib_ti.training.resuming.manifest import Manifest, Section, section_of, section_of_files

SHOWN = 4  # changed inputs in one sentence
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
    if reason := unwritable_reason(folder.path, parents=False):
        problems.append(Problem("", reason))
    if not folder.images.is_dir() and not settings.images.is_dir():
        problems.append(Problem("images", f"{settings.images} is gone, and the run has no copies of its pictures yet"))
    if problems:
        raise BadInput(problems)


def record_inputs(folder: RunFolder, settings: TrainSettings) -> Manifest:
    """Record what the run is about to use and has not recorded yet. Raises BadInput if something else has changed."""
    manifest, now = check_inputs(folder, settings)
    if manifest.record(now):
        manifest.write(folder.inputs)
    return manifest


def check_inputs(
    folder: RunFolder, settings: TrainSettings, force: bool = False
) -> tuple[Manifest, dict[str, Section]]:
    """The manifest of a run, and its inputs as they are now.

    Raises BadInput if they have changed since the run began; with `force` they are recorded as they are now, and that they
    have changed.
    """
    manifest, now = Manifest.read(folder.inputs), _sections(folder, settings)
    changed = manifest.differences(now)
    if changed and not force:
        raise BadInput([Problem("", _sentence([phrase for phrases in changed.values() for phrase in phrases]))])
    if changed:
        manifest.accept(now, folder.saved_step)
        manifest.write(folder.inputs)
    return manifest, now


def _sections(folder: RunFolder, settings: TrainSettings) -> dict[str, Section]:
    """The inputs that exist now."""
    try:
        sections = {"model": section_of(settings.model), "template_file": section_of_files([folder.templates])}
        if settings.vae:
            sections["vae"] = section_of(settings.vae)
        if folder.init_embedding.exists():
            sections["init_embedding"] = section_of_files([folder.init_embedding])
        for name, path in (("images", folder.images), ("contrast_images", folder.contrast_images)):
            if path.is_dir():
                sections[name] = section_of_files(p for p in path.iterdir() if p.is_file())
    except OSError as error:
        path = Path(error.filename) if error.filename else folder.path
        raise UnusableFile(path, f"it cannot be read ({error.strerror}); put it back to go on") from error
    return sections


def _sentence(phrases: list[str]) -> str:
    more = f"; and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return (
        f"this is not what the run began with: {'; '.join(phrases[:SHOWN])}{more}. Put everything back as it was, or go on all "
        "the same with `resume --force` on the command line; the embedding's metadata will say so"
    )
