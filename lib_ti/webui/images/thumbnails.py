"""Pictures on their way to the page: small, and inside the reply, so that no file has an address to guess."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

LARGEST = 384  # pixels of a thumbnail's long side


def data_url(data: bytes, kind: str) -> str:
    """An encoded picture of that kind ("png") as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(picture: Any, side: int = LARGEST) -> str:
    """A PIL picture as a data URL, no larger than `side` either way; very small ones grow, with their pixels to be seen."""
    from PIL import Image

    small = picture.convert("RGB")
    if max(small.size) < side // 4:
        factor = side // 4 // max(small.size) + 1
        small = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_url(buffer.getvalue(), "jpeg")


class Thumbnails:
    """Of files, made when first asked for and again when the file changes; the last few hundred are kept."""

    def __init__(self, most: int = 400) -> None:
        self._most = most
        self._made: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._lock = Lock()

    def of(self, path: Path, side: int = LARGEST) -> str:
        """Raises OSError where the file is gone or is no picture."""
        from PIL import Image

        found = path.stat()
        key = (str(path), found.st_mtime_ns, found.st_size, side)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        with Image.open(path) as picture:
            made = encoded(picture, side)
        with self._lock:
            self._made[key] = made
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        return made
