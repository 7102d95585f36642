"""Deletes a run's copies of the user's pictures, on request."""

from __future__ import annotations

import shutil

from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report.run_report import write_report


def delete_picture_copies(folder: RunFolder) -> None:
    """Delete the pictures, masks and captions of a run, what was computed from them, and their thumbnails in its report.

    The embedding, previews and snapshots stay; the run cannot be resumed. Raises RunBusy while it trains, and OSError.
    """
    lock = folder.lock
    lock.acquire()
    try:
        for pictures in (folder.images, folder.contrast_images):
            if pictures.exists():
                doomed = pictures.with_name(f".deleted-{pictures.name}")
                shutil.rmtree(doomed, ignore_errors=True)
                pictures.rename(doomed)  # at once, so that no part of them is ever trained on
                shutil.rmtree(doomed)
        for name in ("latents.cache", "inputs.json"):
            (folder.path / name).unlink(missing_ok=True)
        if folder.report.exists():
            write_report(folder)
    finally:
        lock.release()
