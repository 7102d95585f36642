"""Whether a folder can be written to, and where it lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lib_ti.data import pictures
from lib_ti.embedding.outline import name_in
from lib_ti.settings import TrainSettings


def unwritable(folder: Path, parents: bool) -> str | None:
    """Why nothing can be written to a folder, which may not exist yet; with `parents` nor may those above it."""
    if folder.exists():
        if not folder.is_dir():
            return f"{folder} is not a folder"
    elif not parents and not folder.absolute().parent.is_dir():
        return f"there is no folder {folder.absolute().parent} to make {folder.name} in"
    base = existing(folder)
    if not base.is_dir():
        return f"{base} is not a folder"
    try:
        if not os.access(base, os.W_OK):
            raise PermissionError(13, "permission denied")
        with tempfile.TemporaryFile(dir=base):
            pass
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror})"
    return None


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    while not os.path.lexists(path) and path != path.parent:  # a link to nothing is there, and in the way
        path = path.parent
    return path


def inside_embeddings(runs_dir: Path, out: Path) -> Path | None:
    """The embeddings folder that `runs_dir` lies in, if any: `out`, or any folder of that name."""
    runs, embeddings = (Path(os.path.realpath(path)) for path in (runs_dir, out))  # `resolve` fails on loops
    for folder in (runs, *runs.parents):
        if folder == embeddings or folder.name.casefold() == "embeddings":
            return folder
    return None


def answering_to(name: str, folder: Path) -> list[str]:
    """The embedding files in `folder`, pictures too, that a WebUI would call by `name`, whatever the case of its letters."""
    return sorted(p.name for p in folder.iterdir() if (name_in(p) or "").casefold() == name.casefold())


def space_needed(settings: TrainSettings, sizes: Sequence[tuple[int, int]], resolution: int) -> int:
    """Bytes that a run may take: copies of the pictures, latents that do not stay in memory, previews."""
    copies = sum(3 * w * h * min(1.0, pictures.LONGEST_SIDE / max(w, h)) ** 2 for w, h in sizes)
    latents = len(sizes) * (2 if settings.flip else 1) * resolution**2 / 64 * 36
    outputs = 2 + settings.steps // settings.preview_every if settings.preview_every else 0
    shown = outputs * max(1, len(settings.preview_prompt)) * len(settings.preview_seed) * 3 * resolution**2
    return int(copies + max(0.0, latents - (settings.latent_cache_mb << 20)) + shown) + (8 << 20)
