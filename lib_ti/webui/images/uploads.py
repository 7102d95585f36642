"""Files that a browser has uploaded: where gradio stores them, and their names. Both come from the browser: trust neither."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from lib_ti.errors import TextualInversionError


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
