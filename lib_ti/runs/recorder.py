"""Writes the outputs of a training into its run folder, and passes each event on to a callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.errors import UnusableFile
from lib_ti.runs.events import Event, EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.recorder import SavableImage
from lib_ti.training.resuming.state_record import read_state_record

MAX_SNAPSHOTS, KEPT_LATEST = 200, 20


class FolderRecorder:
    """A `training.recorder.Recorder` that stores everything in a run folder."""

    def __init__(self, folder: RunFolder, on_event: Callable[[Event], None] = lambda event: None) -> None:
        self._folder = folder
        self._log = EventLog(folder.events)
        self._on_event = on_event

    def event(self, kind: str, **data: Any) -> None:
        self._on_event(self._log.append(kind, **data))

    def preview(self, image: SavableImage, step: int, prompt_index: int, seed_index: int, **data: Any) -> None:
        file = self._save_image(image, self._folder.preview(step, prompt_index, seed_index))
        self.event("preview", step=step, prompt_index=prompt_index, seed_index=seed_index, file=file, **data)

    def test(self, image: SavableImage, prompt_index: int, **data: Any) -> None:
        file = self._save_image(image, self._folder.test(prompt_index))
        self.event("test", prompt_index=prompt_index, file=file, **data)

    def _save_image(self, image: SavableImage, path: Path) -> str:
        """Save it at a path in the run folder; the path relative to the folder."""
        path.parent.mkdir(exist_ok=True)
        with files.atomic_write(path) as part:
            image.save(part, "PNG")
        return path.relative_to(self._folder.path).as_posix()

    def snapshot(self, step: int, data: bytes) -> None:
        path = self._folder.snapshot(step)
        path.parent.mkdir(exist_ok=True)
        files.atomic_write_bytes(path, data, durable=True)
        self.event("snapshot", step=step, file=path.relative_to(self._folder.path).as_posix())
        self._thin_snapshots()

    def _thin_snapshots(self) -> None:
        """Beyond `MAX_SNAPSHOTS`, delete the one whose neighbours are closest, so that those of a long run stay evenly spread."""
        paths = (self._folder.path / "snapshots").glob("*.safetensors")
        steps = sorted(int(path.stem) for path in paths if path.stem.isdecimal())
        if len(steps) > MAX_SNAPSHOTS:
            i = min(range(1, len(steps) - KEPT_LATEST), key=lambda i: steps[i + 1] - steps[i - 1])
            self._folder.snapshot(steps[i]).unlink(missing_ok=True)

    def save_state(self, data: bytes) -> None:
        """Save a state; the one before stays as the previous one, unless it is damaged or the same."""
        if self._folder.state.exists() and self._folder.state.read_bytes() == data:
            return
        if self._state_is_whole():
            files.keep_copy(self._folder.state, self._folder.previous_state)
        files.atomic_write_bytes(self._folder.state, data, durable=True)

    def _state_is_whole(self) -> bool:
        try:
            read_state_record(self._folder.state)
        except UnusableFile:
            return False
        return True

    def save_settings(self, settings: TrainSettings) -> None:
        self._folder.store_settings(settings)

    @property
    def saved_states(self) -> Sequence[Path]:
        return self._folder.saved_states

    @property
    def scratch(self) -> Path:
        return self._folder.latent_cache
