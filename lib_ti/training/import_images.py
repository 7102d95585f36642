"""Taking a run's pictures in: its own copies, upright, without metadata, with their captions and masks beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lib_ti.data import images
from lib_ti.data.latent_cache import Example
from lib_ti.errors import UnusableFile
from lib_ti.settings.train_settings import TrainSettings


def import_images(source: Path, captions: str, folder: Path, stopped: Callable[[], bool], masks: bool = True) -> None:
    """Copy the pictures of `source` into `folder`, which appears only when it is whole; nothing happens if it is there.

    What cannot be read is left out, as the user was told when the request was checked.
    """
    if folder.exists():
        return
    part = folder.with_name("images.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for i, file in enumerate(images.find(source)):
        if stopped():
            return
        try:
            picture = images.reduced(images.decode(file.path))
            mask = images.flatten(images.decode(file.mask)).convert("L") if masks and file.mask else None
        except UnusableFile:
            continue
        stem = part / f"{i:04d}"
        images.without_metadata(picture).save(stem.with_suffix(".png"), compress_level=3)
        if mask:
            images.without_metadata(mask.resize(picture.size)).save(stem.with_suffix(".mask.png"))
        if caption := file.caption(captions):
            stem.with_suffix(".txt").write_text(caption, encoding="utf-8")
    os.replace(part, folder)


def examples(folder: Path, settings: TrainSettings) -> list[Example]:
    """The pictures of a run, as its settings want them shown. Raises UnusableFile if there is none."""
    found = []
    resolution = settings.resolution or 512
    for file in images.find(folder) if folder.is_dir() else []:
        size, original = (resolution, resolution), images.size_of(file.path)
        if settings.buckets:
            size = images.bucket_of(original, resolution, bucket_step(resolution))
        mask = file.mask if settings.masks else None
        found.append(Example(file.path, file.caption("txt"), mask, size, settings.masks, original))
    if not found:
        raise UnusableFile(folder, "the run's pictures are gone; start a new training")
    return found


def bucket_step(resolution: int) -> int:
    """Buckets' sides are multiples of 64 pixels, or of an eighth of a small resolution."""
    return 64 if resolution >= 512 else max(8, resolution // 64 * 8)
