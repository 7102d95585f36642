"""The folders that a training writes to: whether it can, whether the embedding's name is free there, and disk space."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lib_ti.data import images
from lib_ti.data.captions import preview_count, prompts_of_tests
from lib_ti.embedding.summary import embedding_name
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings

MIN_FREE_BYTES = 1 << 20  # for the embedding
SPARE_BYTES = 8 << 20  # of a run: events, snapshots, state
LATENT_BYTES = 36  # for each latent: mean and std of four channels, and the loss weight, in fp32


def check(settings: TrainSettings, findings: Findings) -> None:
    """Find folders that cannot be written to, and an embedding's name that is taken."""
    if not findings.has_problem("out"):
        if reason := unwritable_reason(settings.out, parents=False):
            findings.add_problem("out", reason)
        elif not findings.has_problem("name") and settings.out.is_dir():
            _check_name(settings, findings)
    if not findings.has_problem("runs_dir"):
        folder = None if findings.has_problem("out") else enclosing_embeddings(settings.runs_dir, settings.out)
        if folder:
            reason = f"runs cannot be kept inside an embeddings folder ({folder}): a WebUI would take their snapshots for words"
            findings.add_problem("runs_dir", reason)
        elif reason := unwritable_reason(settings.runs_dir, parents=True):
            findings.add_problem("runs_dir", reason)


def _check_name(settings: TrainSettings, findings: Findings) -> None:
    existing = embeddings_named(settings.name, settings.out)
    if existing and not settings.overwrite:
        reason = (
            f"there is {existing[0]} in {settings.out} already; choose another name, or replace it with --overwrite"
        )
        findings.add_problem("name", reason)
    elif others := [name for name in existing if name != f"{settings.name}.safetensors"]:
        findings.warn(f"{', '.join(others)} also answers to {settings.name!r}; WebUIs will load only one of them")


def check_disk_space(
    settings: TrainSettings, sizes: Sequence[tuple[int, int]], resolution: int, findings: Findings
) -> None:
    """Find disks that are too full. `sizes`: (width, height) of the images."""
    if findings.has_problem("runs_dir"):
        return
    needed = run_bytes(settings, sizes, resolution)
    free = shutil.disk_usage(nearest_existing(settings.runs_dir)).free
    out_is_full = not findings.has_problem("out") and (
        shutil.disk_usage(nearest_existing(settings.out)).free < MIN_FREE_BYTES
    )
    if free < needed:
        reason = f"the disk is too full: the run needs {needed >> 20} MB, and {free >> 20} MB are free"
        findings.add_problem("runs_dir", reason)
    if out_is_full:
        findings.add_problem("out", "the disk is full")


def unwritable_reason(folder: Path, parents: bool) -> str | None:
    """Why a folder cannot be written to, or created; None if it can. `parents`: its parents may be missing, too."""
    if folder.exists():
        if not folder.is_dir():
            return f"{folder} is not a folder"
    elif not parents and not folder.absolute().parent.is_dir():
        return f"there is no folder {folder.absolute().parent} to make {folder.name} in"
    base = nearest_existing(folder)
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


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    path = path.absolute()
    while not os.path.lexists(path) and path != path.parent:  # a broken link exists, and is in the way
        path = path.parent
    return path


def enclosing_embeddings(runs_dir: Path, out: Path) -> Path | None:
    """The embeddings folder that contains `runs_dir`, if any: `out`, or any folder called "embeddings"."""
    runs, embeddings = (Path(os.path.realpath(path)) for path in (runs_dir, out))  # `Path.resolve` fails on loops
    for folder in (runs, *runs.parents):
        if folder == embeddings or folder.name.casefold() == "embeddings":
            return folder
    return None


def embeddings_named(name: str, folder: Path) -> list[str]:
    """The embedding files and images in `folder` that a WebUI would load under `name`, ignoring case."""
    return sorted(p.name for p in folder.iterdir() if (embedding_name(p) or "").casefold() == name.casefold())


def run_bytes(settings: TrainSettings, sizes: Sequence[tuple[int, int]], resolution: int) -> int:
    """The most bytes that a run takes on disk: copies of the images, latents that do not stay in memory, previews."""
    copies = sum(3 * w * h * min(1.0, images.LONGEST_SIDE / max(w, h)) ** 2 for w, h in sizes)
    latents = len(sizes) * (2 if settings.flip else 1) * resolution**2 / 64 * LATENT_BYTES
    width, height = settings.preview_width or resolution, settings.preview_height or resolution
    previews = (preview_count(settings) + len(prompts_of_tests(settings))) * 3 * width * height
    return int(copies + max(0.0, latents - (settings.latent_cache_mb << 20)) + previews) + SPARE_BYTES
