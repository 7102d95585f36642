"""Copy the images that a run learns from into its folder, prepared for training, with their captions and masks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lib_ti import files
from lib_ti.data import buckets, images
from lib_ti.data.captions import plain_caption
from lib_ti.data.dataset import Example
from lib_ti.data.image_folder import find_images, store_repeats
from lib_ti.errors import UnusableFile
from lib_ti.settings.train_settings import NAME_SLOT, TrainSettings


def import_images(
    source: Path, captions: str, folder: Path, stopped: Callable[[], bool], masks: bool = True, name: str = NAME_SLOT
) -> None:
    """Copy the images of `source` into `folder`, which appears only when it is complete; do nothing if it exists.

    Unreadable images are left out; the user was told of them when the request was checked. `name`: of the placeholder, which
    captions may hold as `[name]`.
    """
    if folder.exists():
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    repeats: dict[str, int] = {}
    for i, file in enumerate(find_images(source)):
        if stopped():
            return
        try:
            image = images.prepare_image(file.path)
            mask = images.prepare_mask(file.mask, image.size) if masks and file.mask else None
        except UnusableFile:
            continue
        stem = part / f"{i:04d}"
        image.save(stem.with_suffix(".png"), compress_level=3)
        if mask:
            mask.save(stem.with_suffix(".mask.png"))
        if caption := plain_caption(file.caption(captions).text, name).text:
            stem.with_suffix(".txt").write_text(caption, encoding="utf-8", errors="replace")
        repeats[stem.name] = file.repeats
    store_repeats(part, repeats)
    files.sync_tree(part)
    os.replace(part, folder)
    files.sync_folder(folder.parent)


def load_examples(folder: Path, settings: TrainSettings) -> list[Example]:
    """The training images of a run, at the sizes that its settings ask for. Raises UnusableFile if there are none."""
    examples = []
    resolution = settings.resolution or 512
    for file in find_images(folder) if folder.is_dir() else []:
        size, original_size = (resolution, resolution), images.read_size(file.path)
        if settings.buckets:
            size = buckets.select_bucket(original_size, resolution, buckets.bucket_step(resolution))
        mask = file.mask if settings.masks else None
        caption = plain_caption(file.caption("txt").text, settings.name).text
        examples.append(Example(file.path, caption, mask, size, settings.masks, original_size, file.repeats))
    if not examples:
        raise UnusableFile(folder, "the run's pictures are gone; start a new training")
    return examples
