"""Files that a browser has uploaded: where gradio stores them, and their names. Both come from the browser: trust neither.

gradio keeps uploads, by default those of all its programs on a computer, in one folder, and never deletes them. So the guards of
the server tell a registry of each upload that they see; only those can be added to a draft, and those of our page that never
were are deleted after an hour.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.formats.text_file import decode

MAX_CAPTION_CHARACTERS = 2000  # a prompt holds a tenth of that

MAX_AGE_S = 3600.0
MAX_PENDING_BYTES = 1 << 30
"""Of uploads of our page that wait to be added; the oldest of more are deleted."""
MAX_ENTRIES = 10_000


@dataclass
class _Upload:
    time: float  # of `time.monotonic`
    size: int  # bytes
    is_ours: bool


class UploadRegistry:
    """The uploads of one server. Thread-safe."""

    def __init__(self) -> None:
        self._uploads: dict[Path, _Upload] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def register(self, path: str | Path, is_ours: bool = True) -> None:
        """Remember an upload. `is_ours`: nobody but our page needs it, so that it may be deleted when it gets old."""
        self.delete_stale()
        with suppress(OSError, ValueError, RuntimeError):
            resolved = Path(path).resolve()
            if upload_folder() not in resolved.parents:
                return
            size = resolved.stat().st_size if resolved.exists() else 0  # gradio may still be moving it there
            with self._lock:
                known = self._uploads.pop(resolved, None)  # the same picture has the same path
                is_ours = is_ours and (known is None or known.is_ours)
                self._uploads[resolved] = _Upload(time.monotonic(), size, is_ours)
                self._watch()

    def store(self, data: bytes) -> Path:
        """Store a file as gradio does, for those who send it otherwise: in a folder of its own, under a neutral name."""
        path = upload_folder() / secrets.token_hex(20) / "upload"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        self.register(path)
        return path

    def resolve(self, path: str) -> Path:
        """The file of an upload. Raises TextualInversionError for any other file of this computer."""
        try:
            upload = Path(path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError, TypeError):
            raise TextualInversionError("The upload was lost. Drop the picture again.") from None
        with self._lock:
            is_known = upload in self._uploads
        if not is_known or upload_folder() not in upload.parents or not upload.is_file():
            raise TextualInversionError("Only pictures that were just uploaded can be added.")
        return upload

    def delete(self, path: Path) -> None:
        """Delete an upload, with the folder that gradio has made for it."""
        with self._lock:
            self._uploads.pop(path, None)
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()

    def delete_stale(self, max_age_s: float = MAX_AGE_S) -> None:
        """Delete our page's uploads that were not added for too long, or are too many; forget those of others."""
        now, total, stale = time.monotonic(), 0, []
        with self._lock:
            for index, (path, upload) in enumerate(reversed(self._uploads.items())):
                total += upload.size if upload.is_ours else 0
                if now - upload.time > max_age_s or total > MAX_PENDING_BYTES or index >= MAX_ENTRIES:
                    stale.append((path, upload.is_ours))
            for path, _ in stale:
                del self._uploads[path]
        for path, is_ours in stale:
            if is_ours:
                self.delete(path)

    def close(self) -> None:
        """Delete whatever our page has not added, because the server ends."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
        self.delete_stale(max_age_s=-1)

    def _watch(self) -> None:
        """Have stale uploads deleted even if nobody uploads again."""
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(MAX_AGE_S / 2, self._delete_later)
            self._timer.daemon = True
            self._timer.start()

    def _delete_later(self) -> None:
        self.delete_stale()
        with self._lock:
            self._timer = None
            if self._uploads:
                self._watch()


def upload_folder() -> Path:
    """Where gradio stores uploads, and the images that it shows."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


def display_name(name: str) -> str:
    """The uploaded file's name without folders; for display only, never for opening a file."""
    return re.split(r"[\\/]", str(name))[-1][:200] or "picture"


def read_caption(path: Path, name: str) -> str:
    """The text of an uploaded caption file, its beginning if it is long. Raises UnusableFile, with its `name`, if it is none."""
    with path.open("rb") as file:
        data = file.read(8 * MAX_CAPTION_CHARACTERS)
    try:
        return decode(data, cut_off=len(data) == 8 * MAX_CAPTION_CHARACTERS).text
    except ValueError as error:
        raise UnusableFile(Path(name), str(error)) from error


def one_line(text: str) -> str:
    """A caption on one line, and no longer than one can be."""
    return " ".join(text.split())[:MAX_CAPTION_CHARACTERS]
