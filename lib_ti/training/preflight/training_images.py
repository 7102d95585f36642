"""The images to train on: whether they can be read, what their folder holds besides, and where their captions come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib_ti.data import images
from lib_ti.data.captions import plain_caption
from lib_ti.data.image_files import MAX_IMAGES, ImageFile
from lib_ti.data.image_folder import ImageFolder, has_picture_name, scan_folder
from lib_ti.errors import UnusableFile
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings

MAX_NOTES = 5  # of a kind


@dataclass(frozen=True)
class CheckedImages:
    """The readable images of a folder and their (width, height); the others, each with the reason."""

    folder: ImageFolder | None = None
    files: Sequence[ImageFile] = ()
    sizes: Sequence[tuple[int, int]] = ()
    refused: Sequence[tuple[ImageFile, UnusableFile]] = ()


def check_images(settings: TrainSettings, findings: Findings, option: str = "images") -> CheckedImages:
    """Decode every image of the folder that an option names."""
    path = getattr(settings, option)
    if findings.has_problem(option):
        return CheckedImages()
    if not path.is_dir():
        findings.add_problem(option, f"{path} is not a folder" if path.exists() else f"there is no folder {path}")
        return CheckedImages()
    try:
        folder = scan_folder(path)
    except UnusableFile as error:
        findings.add_problem(option, error)
        return CheckedImages()
    if sum(has_picture_name(file.path) for file in folder.files) > MAX_IMAGES:
        reason = f"{len(folder.files)} pictures are too many; {MAX_IMAGES} is the most"
        findings.add_problem(option, reason)
        return CheckedImages()
    checked = _decode_all(folder, settings.masks, findings)
    if not checked.files:
        reasons = [str(error) for _, error in checked.refused]
        findings.add_problem(
            option, f"there is no picture in {path} that can be used" + (f": {reasons[0]}" if reasons else "")
        )
    return checked


def _decode_all(folder: ImageFolder, masks: bool, findings: Findings) -> CheckedImages:
    """The images of a folder that can be decoded; others that are meant to be pictures are warned of."""
    readable, sizes, refused, notes = [], [], [], []
    for file in folder.files:
        try:
            decoded = images.check_picture(file.path)
            if file.mask and masks:
                images.check_mask(file.mask)
        except UnusableFile as error:
            refused.append((file, error))
        else:
            readable.append(file)
            sizes.append(decoded.image.size)
            notes += [f"{file.path.name}: {note}" for note in decoded.notes]
    broken = [f"{file.path}: {file.kind}" for file in folder.unused if file.kind and has_picture_name(file.path)]
    named = [str(error) for file, error in refused if has_picture_name(file.path)]
    warn_of_each([f"picture skipped: {reason}" for reason in [*named, *broken]], findings, MAX_IMAGES)
    warn_of_each(notes, findings)
    return CheckedImages(folder, readable, sizes, refused)


def warn_of_each(messages: Sequence[str], findings: Findings, limit: int = MAX_NOTES) -> None:
    """Warn of the first of many, and of how many more there are."""
    findings.warnings += messages[:limit]
    if len(messages) > limit:
        findings.warn(f"{len(messages) - limit} more pictures have the like")


def resolve_caption_source(settings: TrainSettings, files: Sequence[ImageFile]) -> str:
    """The caption source: "auto" is txt if any image has a caption file."""
    if settings.captions != "auto":
        return settings.captions
    return "txt" if any(file.caption_file for file in files) else "none"


def read_captions(checked: CheckedImages, source: str, name: str, findings: Findings) -> list[str]:
    """The captions of the images as they are trained on. How they were read is a warning, where that is not plain."""
    captions = [file.caption(source) for file in checked.files]
    warn_of_each([caption.note for caption in captions if caption.note], findings)
    plain = [plain_caption(caption.text, name) for caption in captions]
    for count, what in (
        (sum(c.named for c in plain), f"[name] in them, which is read as {name!r}"),
        (sum(c.unescaped for c in plain), r"brackets with a backslash, as in \(; the backslashes are left out"),
        (sum(c.weighted for c in plain), "weights as in (a:1.2), which mean nothing here and are read as text"),
    ):
        if count:
            findings.warn(f"{'1 caption has' if count == 1 else f'{count} captions have'} {what}")
    return [caption.text for caption in plain]


def summarize(checked: CheckedImages, captions: Sequence[str], source: str, masks: bool) -> str:
    """One line about what is used of the folder of images, and what is not; "" without a folder."""
    if checked.folder is None:
        return ""
    counts = {
        "caption": sum(map(bool, captions)) if source == "txt" else 0,
        "mask": sum(1 for file in checked.files if file.mask) if masks else 0,
    }
    unused_captions = sum(1 for file in checked.files if file.caption_file) if source != "txt" else 0
    summary = checked.folder.summary(checked.files, counts, [file.path for file, _ in checked.refused])
    if source == "file-name":
        summary = (
            summary.replace(";", ", captions from their names;", 1)
            if ";" in summary
            else f"{summary}, captions from their names"
        )
    if unused_captions:
        count = f"{unused_captions} caption{'' if unused_captions == 1 else 's'} (--captions {source})"
        summary += f", {count}" if "; not used: " in summary else f"; not used: {count}"
    return summary
