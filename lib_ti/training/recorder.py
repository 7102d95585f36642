"""What a training hands out as it goes. It knows nothing of folders; `runs` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lib_ti.settings.train_settings import TrainSettings


class Picture(Protocol):
    """A preview, as far as it concerns whoever keeps it."""

    def save(self, fp: Path, format: str) -> None: ...


class Recorder(Protocol):
    """Where events, previews, snapshots and states go. `saved_state` is None before the first state was saved."""

    def event(self, kind: str, **data: Any) -> None: ...
    def preview(self, image: Picture, step: int, prompt_index: int, seed_index: int, **data: Any) -> None: ...
    def snapshot(self, step: int, data: bytes) -> None: ...
    def save_state(self, data: bytes) -> None: ...
    def settle(self, settings: TrainSettings) -> None:
        """Keep what settings have become on the way."""
        ...

    @property
    def saved_state(self) -> Path | None: ...
    @property
    def scratch(self) -> Path:
        """A file that may hold what does not fit into memory, for as long as the training runs."""
        ...
