"""Find the images of a folder, with the captions and masks that lie beside them."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

MAX_IMAGES = 1000
"""The most images that a run learns from."""

_OTHER_SUFFIXES = {".txt", ".json", ".caption", ".npz", ".md", ".csv", ".yaml", ".toml", ".db", ".ini"}
_OTHER_NAMES = ("thumbs.db", "desktop.ini")
_LEADING_NUMBER = re.compile(r"^[-\d]+\s*")


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder, and the files that belong to it."""

    path: Path

    @property
    def mask(self) -> Path | None:
        """NAME.mask.png beside NAME.jpg; also NAME.jpg.mask.png."""
        for stem in (self.path.stem, self.path.name):
            if (path := self.path.with_name(f"{stem}.mask.png")).exists():
                return path
        return None

    @property
    def caption_file(self) -> Path | None:
        path = self.path.with_suffix(".txt")
        return path if path.exists() else None

    def caption(self, source: str) -> str:
        """Its caption from `source` (txt, file-name or none), on one line; empty where there is none."""
        if source == "txt" and self.caption_file:
            return " ".join(decode_text(self.caption_file.read_bytes()).split())
        if source == "file-name":
            text = _LEADING_NUMBER.sub("", self.path.stem) or self.path.stem
            return " ".join(text.replace("_", " ").split())
        return ""


def decode_text(data: bytes) -> str:
    """Decode a caption file: UTF-8, even if cut off within a character, else the encoding of old Windows programs."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data)
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def find_images(folder: Path) -> list[ImageFile]:
    """The files of a folder that are images by their names, sorted. Whether they can be read, `images.decode` says."""
    return [ImageFile(path) for path in sorted(folder.iterdir()) if path.is_file() and _has_image_name(path)]


def _has_image_name(path: Path) -> bool:
    return (
        not path.name.startswith(".")
        and not path.name.lower().endswith(".mask.png")
        and path.suffix.lower() not in _OTHER_SUFFIXES
        and path.name.lower() not in _OTHER_NAMES
    )
