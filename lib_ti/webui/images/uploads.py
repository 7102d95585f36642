"""Files that a browser has sent: where gradio puts them, and what they are called."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from lib_ti.errors import TextualInversionError


def uploaded(path: str) -> Path:
    """A file that gradio took from a browser. Raises TextualInversionError for any other file of this computer."""
    root = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    try:
        found = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise TextualInversionError("The upload got lost; drop the picture again.") from None
    if root not in found.parents or not found.is_file():
        raise TextualInversionError("Only pictures that were just uploaded can be added.")
    return found


def bare(name: str) -> str:
    """The file's name as its owner knows it, without folders; only ever shown, never opened."""
    return re.split(r"[\\/]", str(name))[-1][:200] or "picture"
