"""The text that vectors start from where the settings leave it open."""

from __future__ import annotations

from lib_ti.settings.train_settings import TrainSettings

AUTO_TEXT = "auto"
"""The init text that stands for words that are still to be found."""

FALLBACK_TEXT = "object"


def init_text(settings: TrainSettings) -> str:
    """The text to start from where none was chosen or found: any word will do."""
    return FALLBACK_TEXT if settings.init_text.casefold() == AUTO_TEXT else settings.init_text
