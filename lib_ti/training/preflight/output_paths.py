"""The folders that a training writes to: whether it can, what is there already, and the room it takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path

from lib_ti.data import images
from lib_ti.data.captions import preview_count
from lib_ti.embedding.summary import embedding_name
from lib_ti.errors import Problem
from lib_ti.settings.train_settings import TrainSettings


def unfit(settings: TrainSettings, faulty: Container[str]) -> tuple[list[Problem], list[str]]:
    """What is wrong with the folders to write to and the name's place there, and what is to be said of it.

    `faulty`: options whose problems are known; nothing is made of their values.
    """
    s, problems, warnings = settings, list[Problem](), list[str]()
    if "out" not in faulty:
        if reason := unwritable(s.out, parents=False):
            problems.append(Problem("out", reason))
        elif "name" not in faulty and s.out.is_dir():
            taken = answering_to(s.name, s.out)
            if taken and not s.overwrite:
                reason = f"there is {taken[0]} in {s.out} already; choose another name, or replace it with --overwrite"
                problems.append(Problem("name", reason))
            elif others := [name for name in taken if name != f"{s.name}.safetensors"]:
                told = f"{', '.join(others)} also answers to {s.name!r}; WebUIs will load only one of them"
                warnings.append(told)
    if "runs_dir" not in faulty:
        if "out" not in faulty and (inside := inside_embeddings(s.runs_dir, s.out)):
            reason = f"runs cannot be kept inside an embeddings folder ({inside}): a WebUI would take their snapshots for words"
            problems.append(Problem("runs_dir", reason))
        elif reason := unwritable(s.runs_dir, parents=True):
            problems.append(Problem("runs_dir", reason))
    return problems, warnings


def too_full(settings: TrainSettings, needed: int, faulty: Container[str]) -> list[Problem]:
    """What has no room on disk, of a training whose run takes `needed` bytes. `faulty`: as in `unfit`."""
    problems = []
    if "runs_dir" not in faulty:
        free = shutil.disk_usage(existing(settings.runs_dir)).free
        if free < needed:
            reason = f"the disk is too full: the run needs {needed >> 20} MB, and {free >> 20} MB are free"
            problems.append(Problem("runs_dir", reason))
        if "out" not in faulty and shutil.disk_usage(existing(settings.out)).free < 1 << 20:
            problems.append(Problem("out", "the disk is full"))
    return problems


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
    return sorted(p.name for p in folder.iterdir() if (embedding_name(p) or "").casefold() == name.casefold())


def space_needed(settings: TrainSettings, sizes: Sequence[tuple[int, int]], resolution: int) -> int:
    """Bytes that a run may take: copies of the pictures, latents that do not stay in memory, previews."""
    copies = sum(3 * w * h * min(1.0, images.LONGEST_SIDE / max(w, h)) ** 2 for w, h in sizes)
    latents = len(sizes) * (2 if settings.flip else 1) * resolution**2 / 64 * 36
    width, height = settings.preview_width or resolution, settings.preview_height or resolution
    shown = preview_count(settings) * 3 * width * height
    return int(copies + max(0.0, latents - (settings.latent_cache_mb << 20)) + shown) + (8 << 20)
