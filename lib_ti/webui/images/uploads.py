"""Files that a browser has uploaded: where gradio stores them, and their names. Both come from the browser: trust neither."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.formats.text_file import decode

MAX_CAPTION_CHARACTERS = 2000  # a prompt holds a tenth of that


def resolve_upload(path: str) -> Path:
    """The file in gradio's upload folder. Raises TextualInversionError for any other file of this computer."""
    root = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    try:
        upload = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise TextualInversionError("The upload got lost; drop the picture again.") from None
    if root not in upload.parents or not upload.is_file():
        raise TextualInversionError("Only pictures that were just uploaded can be added.")
    return upload


def display_name(name: str) -> str:
    """The uploaded file's name without folders; for display only, never for opening a file."""
    return re.split(r"[\\/]", str(name))[-1][:200] or "picture"


def read_caption(path: Path, name: str) -> str:
    """The text of an uploaded caption file, its beginning if it is long. Raises UnusableFile, with its `name`, if it is none."""
    with path.open("rb") as file:
        data = file.read(8 * MAX_CAPTION_CHARACTERS)
    try:
        return decode(data).text
    except ValueError as error:
        raise UnusableFile(Path(name), str(error)) from error


def one_line(text: str) -> str:
    """A caption on one line, and no longer than one can be."""
    return " ".join(text.split())[:MAX_CAPTION_CHARACTERS]
