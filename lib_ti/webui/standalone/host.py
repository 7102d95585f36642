"""The standalone host, for users without a WebUI: a list of checkpoints, and folders for embeddings and runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.webui.hosts.host import CheckpointChoice, TryLock
from lib_ti.webui.standalone.checkpoints import PRACTICE_MODEL, CheckpointCache, find_checkpoints


class StandaloneHost:
    """The `Host` implementation behind `python -m lib_ti ui`."""

    title = "standalone"
    keep_snapshots = True
    keep_images = True

    def __init__(self, data_dir: Path, model: Path = PRACTICE_MODEL, hides_paths: bool = False) -> None:
        """`data_dir`: for embeddings and runs; `model`: a checkpoint, or a folder of them. Raises BadInput without one."""
        self.lock: TryLock = threading.Lock()
        self.hides_paths = hides_paths
        self.embeddings_dir = data_dir.absolute() / "embeddings"
        self.runs_dir = data_dir.absolute() / "textual_inversion"
        self.checkpoints = find_checkpoints(model.absolute())
        self.checkpoint_cache = CheckpointCache()
        self._selected = self.checkpoints[0]
        self._training_interrupt: threading.Event | None = None

    def selected_checkpoint(self) -> CheckpointChoice:
        return self._selected

    def select(self, title: str) -> None:
        """Select the checkpoint with that title. Raises BadInput if there is none."""
        for choice in self.checkpoints:
            if choice.title == title:
                self._selected = choice
                return
        raise BadInput([Problem("model", f"there is no checkpoint {title}")])

    def resolution(self) -> int:
        """The selected checkpoint's resolution, in pixels."""
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        try:
            return inspect_checkpoint(self._selected.path).resolution
        except UnusableFile:  # generating reports it
            return 512

    @property
    def is_gpu_lent(self) -> bool:
        """Whether a training has the GPU."""
        return self._training_interrupt is not None

    def selected_vae(self) -> Path | None:
        return None

    def device(self) -> str:
        return "auto"

    def precision(self) -> str:
        return "auto"

    def clip_skip(self) -> int:
        return 1

    def captioners(self) -> dict[str, str]:
        return {}

    def captioner(self, name: str) -> AbstractContextManager[Callable[[Any], str]]:
        raise LookupError(name)

    @contextmanager
    def gpu_lent(self, name: str) -> Iterator[Callable[[], bool]]:
        """See `Host.gpu_lent`."""
        interrupt = self._training_interrupt = threading.Event()
        with self.checkpoint_cache.offloaded():
            try:
                yield interrupt.is_set
            finally:
                self._training_interrupt = None

    def interrupt_training(self) -> None:
        """Stop the training that has the GPU, if any."""
        if interrupt := self._training_interrupt:
            interrupt.set()

    def reload_embeddings(self, names: Sequence[str]) -> None:
        """Nothing to do: txt2img reads changed files by itself."""
