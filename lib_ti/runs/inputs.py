"""Whether a run still has the inputs that it began with."""

from __future__ import annotations

from pathlib import Path

from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.resuming.manifest import Manifest, Section, section_of, section_of_files

SHOWN = 4  # differences in one sentence


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
