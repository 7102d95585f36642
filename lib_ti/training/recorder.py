"""Where a training sends its events and results. The training knows no folders; `runs.recorder` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lib_ti.settings.train_settings import TrainSettings


class SavableImage(Protocol):
    """A preview or test picture that can be saved, as `PIL.Image.Image` can."""

    def save(self, fp: Path, format: str) -> None: ...


class Recorder(Protocol):
    """Keeps events, previews, test pictures, snapshots and states.

    `saved_states`: those that a training can be resumed from, the last one first; none before the first was saved.
    """

    def event(self, kind: str, **data: Any) -> None: ...
    def preview(self, image: SavableImage, step: int, prompt_index: int, seed_index: int, **data: Any) -> None: ...
    def test(self, image: SavableImage, prompt_index: int, **data: Any) -> None: ...
    def snapshot(self, step: int, data: bytes) -> None: ...
    def save_state(self, data: bytes) -> None: ...
    def save_settings(self, settings: TrainSettings) -> None:
        """Store settings that the training has changed."""
        ...

    @property
    def saved_states(self) -> Sequence[Path]: ...
    @property
    def scratch(self) -> Path:
        """Path of a temporary file for data that does not fit into memory while the training runs."""
        ...
