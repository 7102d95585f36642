"""An image and the files that lie beside it: its caption and its mask."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.text_file import DecodedText, decode, read_text

MAX_IMAGES = 1000
"""The most images that a run learns from."""

CAPTION_SUFFIXES = (".txt", ".caption", ".cap")
"""Of caption files, the first one that is there: NAME.txt or NAME.png.txt beside NAME.png; `.caption` is kohya's."""

MAX_CAPTION_BYTES = 1 << 16

_LEADING_NUMBER = re.compile(r"^[-\d]+\s*")
_MASK_NAME = re.compile(r"(.+)(?:\.mask|-masklabel)\.(?:png|webp|jpe?g|bmp|tiff?)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Caption:
    """`text`: on one line, empty where there is none. `note`: for the user, about how it was read; mostly empty."""

    text: str = ""
    note: str = ""


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder, and the files that belong to it. `repeats`: how often it is used, for each use of the others."""

    path: Path
    caption_file: Path | None = None
    mask: Path | None = None
    repeats: int = 1

    def caption(self, source: str) -> Caption:
        """Its caption from `source`: txt, file-name or none."""
        if source == "txt" and self.caption_file:
            return _read_caption(self.caption_file)
        if source == "file-name":
            text = _LEADING_NUMBER.sub("", stem := file_stem(self.path)) or stem
            return Caption(" ".join(text.replace("_", " ").split()))
        return Caption()


def _read_caption(path: Path) -> Caption:
    try:
        decoded = read_text(path, MAX_CAPTION_BYTES)
    except UnusableFile as error:
        return Caption(note=f"caption not used: {error}")
    note = f"{path.name} is in no encoding that can be told, and was read as Latin-1" if decoded.guessed else ""
    return Caption(" ".join(decoded.text.split()), note)


def file_stem(path: Path) -> str:
    """The stem of a file's name as text, also where the name is not valid Unicode."""
    try:
        return path.stem.encode().decode()
    except UnicodeEncodeError:
        return decode_name(path.stem).text


def decode_name(name: str) -> DecodedText:
    """A file's name that Python could not decode, from the bytes that the system has for it."""
    return decode(os.fsencode(name) if os.name != "nt" else name.encode("utf-8", "replace"))


def name_key(name: str) -> str:
    """What names have in common that differ in case or in their Unicode form only: an archive from a Mac has é in two parts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def caption_stem(name: str) -> str | None:
    """The part of a caption file's name that an image's name begins with, or is; None for other files."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in CAPTION_SUFFIXES else None


def mask_stem(name: str) -> str | None:
    """Likewise of a mask's name: NAME.mask.png, NAME.jpg.mask.png, and OneTrainer's NAME-masklabel.png."""
    match = _MASK_NAME.fullmatch(name)
    return match[1] if match else None


class Companions:
    """The files of one folder that belong to an image there, found by its name."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_name = {path.name: path for path in paths}
        self._by_key: dict[str, Path] = {}
        for path in self._by_name.values():
            self._by_key.setdefault(name_key(path.name), path)

    def find(self, name: str) -> Path | None:
        """The file with that name, else one whose name differs in case or Unicode form only."""
        return self._by_name.get(name) or self._by_key.get(name_key(name))

    def caption_of(self, image: Path) -> Path | None:
        names = (f"{stem}{suffix}" for stem in (image.stem, image.name) for suffix in CAPTION_SUFFIXES)
        return next((path for name in names if (path := self.find(name))), None)

    def mask_of(self, image: Path) -> Path | None:
        for stem in (image.stem, image.name):
            for ending in (".mask", "-masklabel"):
                for suffix in (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
                    if path := self.find(f"{stem}{ending}{suffix}"):
                        return path
        return None
