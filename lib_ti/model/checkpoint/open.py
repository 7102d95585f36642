"""Open what the user names as a checkpoint or a VAE, whatever its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lib_ti.formats.hf_cache import resolve_snapshot
from lib_ti.model.checkpoint import diffusers_folder, ldm
from lib_ti.model.checkpoint.checkpoint import Checkpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file or diffusers folder, opened without reading its weights. Raises UnusableFile."""
    resolved = resolve_snapshot(path)
    if resolved.is_dir():  # it is called as it was named, and not by the number of its revision
        return replace(diffusers_folder.open_folder(resolved), path=path)
    return ldm.open_file(resolved)


def with_vae(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with another VAE: a file of either layout, or a diffusers folder. Raises UnusableFile."""
    vae = diffusers_folder.open_vae(path) if path.is_dir() else ldm.open_vae(path, checkpoint)
    return replace(checkpoint, vae=vae)
