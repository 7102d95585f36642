"""The checkpoints that the standalone host offers, and the one that it has loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lib_ti
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.webui.embedding_index import FileStamp
from lib_ti.webui.hosts.host import CheckpointChoice

if TYPE_CHECKING:  # they import torch and diffusers, for which the page does not wait
    from lib_ti.model.checkpoint.checkpoint import Checkpoint
    from lib_ti.model.diffusion import StableDiffusion

PRACTICE_MODEL = Path(lib_ti.__file__).parent / "practice" / "model" / "practice.safetensors"


def find_checkpoints(path: Path) -> list[CheckpointChoice]:
    """The checkpoint at `path`, or those in that folder and below. Raises BadInput if there is none."""
    if path.is_file() or (path / "model_index.json").is_file():
        return [CheckpointChoice(path.name, path)]
    if not path.is_dir():
        raise BadInput([Problem("model", f"there is no file or folder {path}")])
    candidates = {
        file.parent if file.name == "model_index.json" else file
        for pattern in ("*.safetensors", "*.ckpt", "model_index.json")
        for file in path.rglob(pattern)
    }
    diffusers_folders = {candidate for candidate in candidates if candidate.is_dir()}
    checkpoints = [c for c in candidates if not diffusers_folders.intersection(c.parents)]  # not a folder's components
    if not checkpoints:
        raise BadInput([Problem("model", f"{path} holds no checkpoint (.safetensors, .ckpt or a diffusers folder)")])
    return [CheckpointChoice(c.relative_to(path).as_posix(), c) for c in sorted(checkpoints)]


@dataclass
class LoadedCheckpoint:
    """A checkpoint and its networks on a device. `stamp`: the version of the file that was loaded."""

    stamp: FileStamp
    checkpoint: Checkpoint
    model: StableDiffusion


class CheckpointCache:
    """Holds one loaded checkpoint, for generating."""

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    def load(self, path: Path, requested_device: str, requested_precision: str) -> LoadedCheckpoint:
        """The checkpoint at `path`, loaded unless it already is. Raises UnusableFile."""
        from lib_ti.model.checkpoint.open import open_checkpoint
        from lib_ti.model.diffusion import StableDiffusion
        from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision

        stamp = FileStamp.of(path)
        if self._loaded is None or self._loaded.stamp != stamp:
            self._loaded = None  # there may be no memory for two
            checkpoint = open_checkpoint(path).require_full_vocabulary()
            if checkpoint.vae is None:
                raise UnusableFile(path, "this checkpoint has no VAE of its own")
            device = choose_device(requested_device)
            dtype = DTYPES[choose_precision(requested_precision, device, checkpoint.unet_parameters)]
            self._loaded = LoadedCheckpoint(stamp, checkpoint, StableDiffusion.load(checkpoint, dtype, device))
        return self._loaded

    @contextmanager
    def offloaded(self) -> Iterator[None]:
        """A context in which the loaded checkpoint is in RAM; it returns to its device however the context ends."""
        loaded = self._loaded
        device = loaded.model.device if loaded else None
        try:
            if loaded:
                _move(loaded.model, "cpu")
            yield
        finally:
            try:
                if loaded:
                    _move(loaded.model, device)
            except RuntimeError:  # out of memory: it is loaded again when it is needed
                self._loaded = None


def _move(model: StableDiffusion, device: Any) -> None:
    """Move a model's networks to a device, and release the GPU memory that they leave behind."""
    import torch

    for network in model.networks:
        network.to(device)
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
