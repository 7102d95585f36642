"""Pictures that wait in a page for their training.

Each page has a draft, a folder by a random name below the runs. What arrives is decoded, made upright, freed of metadata
and encoded anew, and the upload deleted: what cannot be decoded as a picture leaves no trace and is never sent back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.webui.images.thumbnails import Thumbnails
from lib_ti.webui.images.uploads import bare, uploaded

MOST_PICTURES = 1000
LARGEST_FILE = 100 << 20  # bytes
LONGEST_CAPTION = 2000  # characters; a prompt holds a tenth of that
KEPT_FOR_S = 14 * 24 * 3600.0
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif", ".heic", ".jp2")
"""What is looked at in a folder of the server: other files' names are none of the page's business."""
_ID = re.compile(r"[0-9a-f]{32}")
_PICTURE = re.compile(r"\d{4,}")


@dataclass
class Draft:
    """What is in a draft: pictures in their order, and captions that came before their picture."""

    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)  # captions by the stem of the picture's name
    next: int = 0

    def by_stem(self, name: str) -> str | None:
        """The picture whose name is that of a caption's or mask's file, but for the ending."""
        stem = Path(name).name.rsplit(".", 1)[0].removesuffix(".mask")
        return next((i for i, p in self.pictures.items() if Path(p["name"]).stem == stem), None)


class Drafts:
    """All drafts below the folder of the runs."""

    def __init__(self, runs: Path, thumbnails: Thumbnails) -> None:
        self._root = runs / ".drafts"
        self._thumbnails = thumbnails
        self._lock = threading.RLock()

    def clean(self) -> None:
        """Delete drafts that nobody has touched for two weeks."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if time.time() - folder.stat().st_mtime > KEPT_FOR_S:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self, draft: str) -> Path:
        """Where a draft lies. Raises TextualInversionError for what is no draft's name."""
        if not isinstance(draft, str) or not _ID.fullmatch(draft):
            raise TextualInversionError("The page has lost its pictures' place: reload it.")
        return self._root / draft

    def pictures(self, draft: str, side: int = 512) -> list[dict[str, Any]]:
        """What the page shows of each picture. `side`: below this many pixels a picture is small."""
        with self._lock:
            content, folder = self._read(draft), self.folder(draft)
        return [self._shown(folder, i, content, side) for i in content.pictures]

    def pictures_of(self, draft: str) -> dict[str, dict[str, Any]]:
        """What is known of each picture, by its number."""
        with self._lock:
            return self._read(draft).pictures

    def add_upload(self, draft: str, path: str, name: str, side: int = 512) -> list[dict[str, Any]]:
        """Take in a file that the browser has just uploaded, and delete the upload. Raises UnusableFile."""
        upload = uploaded(path)
        try:
            if upload.stat().st_size > LARGEST_FILE:
                raise UnusableFile(Path(name), f"larger than {LARGEST_FILE >> 20} MB; save it smaller")
            return self._add(draft, upload, bare(name), side)
        finally:
            upload.unlink(missing_ok=True)
            with suppress(OSError):
                upload.parent.rmdir()  # gradio's own folder for this one file

    def add_folder(
        self, draft: str, folder: Path, side: int = 512
    ) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """Take in copies of a folder's pictures with their captions and masks. What was added, and why others were not."""
        from lib_ti.data import images as pictures

        if not os.path.isdir(folder):  # noqa: PTH112 - Path's own raises for names that are too long
            raise TextualInversionError(f"There is no folder {folder} on the computer that the WebUI runs on.")
        added: list[str] = []
        refused: list[tuple[str, str]] = []
        found = [f for f in pictures.find(folder) if f.path.suffix.lower() in SUFFIXES]
        if not found:
            raise TextualInversionError(f"There are no pictures in {folder}.")
        for file in found[:MOST_PICTURES]:
            try:
                (picture,) = self._add(draft, file.path, file.path.name, side)
                if caption := file.caption("txt"):
                    self.caption(draft, picture["id"], caption)
                added.append(picture["id"])
                if file.mask:
                    self._add_mask(draft, file.mask, picture["id"])
            except UnusableFile as error:
                refused.append((file.path.name, str(error).removeprefix(f"{error.path}: ")))
        return [p for p in self.pictures(draft, side) if p["id"] in added], refused

    def remove(self, draft: str, picture: str) -> None:
        with self._lock:
            content = self._read(draft)
            if content.pictures.pop(picture, None):
                self._write(draft, content)
                _delete(self._files(draft, picture))

    def clear(self, draft: str) -> None:
        with self._lock:
            shutil.rmtree(self.folder(draft), ignore_errors=True)

    def caption(self, draft: str, picture: str, text: str) -> None:
        """Say something about a picture; nothing takes it away."""
        with self._lock:
            if picture not in self._read(draft).pictures:
                raise TextualInversionError("This picture is not there any more.")
            path = self.folder(draft) / f"{picture}.txt"
            words = " ".join(text.split())[:LONGEST_CAPTION]
            files.write_bytes(path, words.encode("utf-8", "replace")) if words else path.unlink(missing_ok=True)

    def hand_over(self, draft: str, target: Path, captions: str = "txt") -> None:
        """Copy a draft's pictures to where a run keeps its own; the copy is whole or not there.

        `captions`: where they come from: the draft's own (txt), the pictures' names (file-name), or nowhere (none).
        """
        from lib_ti.data.images import PictureFile

        part = target.with_name("images.part")
        with self._lock:
            part.mkdir()
            for picture, about in self._read(draft).pictures.items():
                for path in self._files(draft, picture):
                    if path.exists() and (path.suffix != ".txt" or captions in ("auto", "txt")):
                        shutil.copyfile(path, part / path.name)
                if captions == "file-name" and (words := PictureFile(Path(about["name"])).caption(captions)):
                    (part / f"{picture}.txt").write_bytes(words.encode("utf-8", "replace"))
            os.replace(part, target)

    def _add(self, draft: str, path: Path, name: str, side: int) -> list[dict[str, Any]]:
        with self._lock:
            content = self._read(draft)
            if name.lower().endswith(".txt"):
                return self._add_caption(draft, path, name, content, side)
            if name.lower().endswith(".mask.png"):
                if not (owner := content.by_stem(name)):
                    raise UnusableFile(Path(name), "a mask; add the picture it belongs to first")
                self._add_mask(draft, path, owner)
                return [self._shown(self.folder(draft), owner, content, side)]
            if len(content.pictures) >= MOST_PICTURES:
                raise UnusableFile(Path(name), f"{MOST_PICTURES} pictures are the most; 30 are plenty")
        return [self._add_picture(draft, path, name, side)]

    def _add_picture(self, draft: str, path: Path, name: str, side: int) -> dict[str, Any]:
        from lib_ti.data import images as pictures
        from lib_ti.webui.images import image_quality

        try:
            picture = pictures.without_metadata(pictures.reduced(pictures.decode(path)))
        except UnusableFile as error:
            raise UnusableFile(Path(name), str(error).removeprefix(f"{path}: ")) from error
        measured = image_quality.measure(picture)
        with self._lock:  # again, after the slow part
            content, folder = self._read(draft), self.folder(draft)
            number = f"{content.next:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            with files.replacing(folder / f"{number}.png") as part:
                picture.save(part, "PNG", compress_level=3)
            content.next += 1
            content.pictures[number] = {"name": name, **measured}
            if caption := content.waiting.pop(Path(name).stem, ""):
                files.write_bytes(folder / f"{number}.txt", caption.encode())
            self._write(draft, content)
            return self._shown(folder, number, content, side)

    def _add_caption(self, draft: str, path: Path, name: str, content: Draft, side: int) -> list[dict[str, Any]]:
        from lib_ti.data import images as pictures

        with path.open("rb") as file:
            text = pictures.text_of(file.read(8 * LONGEST_CAPTION))
        if owner := content.by_stem(name):
            self.caption(draft, owner, text)
            return [self._shown(self.folder(draft), owner, content, side)]
        content.waiting[Path(name).stem] = " ".join(text.split())[:LONGEST_CAPTION]
        self._write(draft, content)
        return []

    def _add_mask(self, draft: str, path: Path, picture: str) -> None:
        from lib_ti.data import images as pictures

        mask = pictures.flatten(pictures.reduced(pictures.decode(path))).convert("L")
        with files.replacing(self.folder(draft) / f"{picture}.mask.png") as part:
            pictures.without_metadata(mask).save(part, "PNG")

    def _shown(self, folder: Path, picture: str, content: Draft, side: int) -> dict[str, Any]:
        from lib_ti.webui.images import image_quality

        caption = folder / f"{picture}.txt"
        about = content.pictures[picture]
        return {
            "id": picture, "name": about["name"], "width": about["width"], "height": about["height"],
            "caption": caption.read_text(encoding="utf-8") if caption.exists() else "",
            "mask": (folder / f"{picture}.mask.png").exists(),
            "warnings": image_quality.warnings(picture, content.pictures, side),
            "thumb": self._thumbnails.of(folder / f"{picture}.png", 256),
        }  # fmt: skip

    def _files(self, draft: str, picture: str) -> list[Path]:
        if not _PICTURE.fullmatch(picture):
            raise TextualInversionError("There is no such picture.")
        return [self.folder(draft) / f"{picture}{suffix}" for suffix in (".png", ".txt", ".mask.png")]

    def _read(self, draft: str) -> Draft:
        try:
            return Draft(**json.loads((self.folder(draft) / "draft.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Draft()

    def _write(self, draft: str, content: Draft) -> None:
        folder = self.folder(draft)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(folder / "draft.json", json.dumps(asdict(content)).encode())


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
