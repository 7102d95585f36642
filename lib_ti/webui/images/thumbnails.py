"""Thumbnails as data URLs: sent within the reply, so that no file of the server has a URL that could be guessed."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

MAX_SIDE = 384  # pixels


def data_url(data: bytes, image_format: str) -> str:
    """An encoded image of that format ("png") as a data URL."""
    return f"data:image/{image_format};base64,{base64.b64encode(data).decode()}"


def encode_thumbnail(image: Any, side: int = MAX_SIDE) -> str:
    """A PIL image as a data URL, no larger than `side` either way; tiny images are enlarged, with sharp pixels."""
    from PIL import Image

    thumbnail = image.convert("RGB")
    if max(thumbnail.size) < side // 4:
        factor = side // 4 // max(thumbnail.size) + 1
        size = thumbnail.width * factor, thumbnail.height * factor
        thumbnail = thumbnail.resize(size, Image.Resampling.NEAREST)
    thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=85)
    return data_url(buffer.getvalue(), "jpeg")


def render(path: Path, side: int) -> str:
    """The thumbnail of an image that this project wrote, as a data URL. Raises OSError if it is missing or damaged."""
    from PIL import Image

    with Image.open(path) as image:
        return encode_thumbnail(image, side)


class ThumbnailCache:
    """Thumbnails of image files, renewed when the file changes; the most recently used ones are kept."""

    def __init__(self, max_entries: int = 400, render: Callable[[Path, int], str] = render) -> None:
        """`render`: makes the thumbnail of a file, no larger than a number of pixels either way."""
        self._max_entries, self._render = max_entries, render
        self._urls: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, side: int = MAX_SIDE) -> str:
        """The thumbnail of an image file. Raises OSError if the file is missing or not an image."""
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size, side)
        with self._lock:
            if key in self._urls:
                self._urls.move_to_end(key)
                return self._urls[key]
        url = self._render(path, side)
        with self._lock:
            self._urls[key] = url
            while len(self._urls) > self._max_entries:
                self._urls.popitem(last=False)
        return url
