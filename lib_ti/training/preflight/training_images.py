"""The images to train on: whether they can be read, and where their captions come from."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.data import image_files, images
from lib_ti.data.image_files import MAX_IMAGES, ImageFile
from lib_ti.errors import UnusableFile
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings


def check_images(
    settings: TrainSettings, findings: Findings, option: str = "images"
) -> tuple[list[ImageFile], list[tuple[int, int]]]:
    """Decode every image of the folder that an option names: the readable ones, and their (width, height)."""
    folder = getattr(settings, option)
    if findings.has_problem(option):
        return [], []
    if not folder.is_dir():
        reason = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        findings.add_problem(option, reason)
        return [], []
    readable, sizes, reasons = [], [], []
    for file in image_files.find_images(folder):
        try:
            size = images.decoded_size(file.path)
            if file.mask and settings.masks:
                images.decoded_size(file.mask)
        except UnusableFile as error:
            reasons.append(str(error))
        else:
            readable.append(file)
            sizes.append(size)
    if not readable:
        first_reason = f": {reasons[0]}" if reasons else ""
        findings.add_problem(option, f"there is no picture in {folder} that can be used{first_reason}")
    elif len(readable) > MAX_IMAGES:
        findings.add_problem(option, f"{len(readable)} pictures are too many; {MAX_IMAGES} is the most")
    else:
        findings.warnings += [f"picture skipped: {reason}" for reason in reasons]
    return readable, sizes


def resolve_caption_source(settings: TrainSettings, files: Sequence[ImageFile]) -> str:
    """The caption source: "auto" is txt if any image has a .txt file."""
    if settings.captions != "auto":
        return settings.captions
    return "txt" if any(file.caption_file for file in files) else "none"
