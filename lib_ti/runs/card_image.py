"""The picture beside a finished embedding, `NAME.preview.png`, which the WebUIs show on its card."""

from __future__ import annotations

from pathlib import Path

from lib_ti import files
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings


def card_of(settings: TrainSettings) -> Path:
    """Where the card picture of a training's word belongs. A plain NAME.png would be taken for an embedding."""
    return settings.out / f"{settings.name}.preview.png"


def place_card(folder: RunFolder, settings: TrainSettings) -> str | None:
    """Make the run's last preview the word's card, unless there is one that may not be replaced.

    A sentence if that fails: the embedding matters more than its picture.
    """
    shown = folder.timeline().previews
    target = card_of(settings)
    if not shown or (target.exists() and not settings.overwrite):
        return None
    latest = max(step for step, _, _ in shown)
    first = min(place for place in shown if place[0] == latest)
    try:
        files.atomic_write_bytes(target, folder.preview(*first).read_bytes())
    except OSError as error:
        return f"the word has no card picture: {target.name} could not be written ({error.strerror})"
    return None
