"""The card image of an embedding, `NAME.preview.png` beside it, which the WebUIs show in their list of embeddings."""

from __future__ import annotations

from pathlib import Path

from lib_ti import files
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings


def card_image_path(settings: TrainSettings) -> Path:
    """Where the card image belongs. A plain NAME.png would be taken for an embedding."""
    return settings.out / f"{settings.name}.preview.png"


def save_card_image(folder: RunFolder, settings: TrainSettings) -> str | None:
    """Copy the run's last preview beside its embedding, unless there is a card image that must not be overwritten.

    Returns a warning if the copy fails: the embedding matters more than its image.
    """
    latest_preview = folder.history().latest_preview()
    target = card_image_path(settings)
    if latest_preview is None or (target.exists() and not settings.overwrite):
        return None
    try:
        with files.atomic_write(target, staging=folder.path) as part:
            part.write_bytes(folder.preview(*latest_preview).read_bytes())
    except OSError as error:
        return f"the word has no card picture: {target.name} could not be written ({error.strerror})"
    return None
