"""The folder of the standalone server's temporary files: uploads, until they are added, and the pictures of txt2img.

gradio would keep them in a folder that all its programs and all users of the computer share, and never delete them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_ti.runs.lock import RunLock, is_held

_PREFIX = "textual-inversion-"
_LOCK = ".lock"


@contextmanager
def temporary_folder() -> Iterator[None]:
    """Let gradio use a folder of this process's own, deleted at the end; GRADIO_TEMP_DIR names another one, which stays."""
    if os.environ.get("GRADIO_TEMP_DIR"):
        yield
        return
    _delete_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = RunLock(folder / _LOCK)
    lock.acquire()
    before = tempfile.tempdir
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    tempfile.tempdir = str(folder)  # gradio 4 leaves what it has received of an upload that was cut off there
    try:
        yield
    finally:
        tempfile.tempdir = before
        del os.environ["GRADIO_TEMP_DIR"]
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _delete_left_behind() -> None:
    """Delete the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            is_left_behind = (folder / _LOCK).is_file() and not is_held(folder / _LOCK)
        except OSError:  # another user's
            continue
        if is_left_behind:
            shutil.rmtree(folder, ignore_errors=True)
