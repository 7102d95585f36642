"""The record of a draft, draft.json in its folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.data.image_files import ImageFile, name_key
from lib_ti.data.image_folder import count_of, store_repeats

MAX_SHOWN = 12  # names of files that are not used
_FILE_NAME = "draft.json"


@dataclass
class Draft:
    """The images of a draft in their order, and captions that were uploaded before their image.

    Attributes:
        images: by id, which is the stem of the image's file: its name, size and what `image_quality.measure` found.
        pending_captions: by `name_key` of the stem or the name of the image they are for.
        next_id: of the next image; ids are not used again.
        unused: what was added and is not used, in words.
    """

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    pending_captions: dict[str, str] = field(default_factory=dict)
    next_id: int = 0
    unused: list[str] = field(default_factory=list)

    def find_by_stem(self, stem: str) -> str | None:
        """The id of the image whose name begins with what a caption's or mask's name says: `stem`, or `stem` itself."""
        keys = {image_id: self._keys(image["name"]) for image_id, image in self.images.items()}
        return next((image_id for image_id, own in keys.items() if name_key(stem) in own), None)

    def take_caption(self, name: str) -> str:
        """The caption that was uploaded before its image `name`; empty if there is none."""
        for key in self._keys(name):
            if key in self.pending_captions:
                return self.pending_captions.pop(key)
        return ""

    @staticmethod
    def _keys(name: str) -> tuple[str, str]:
        return name_key(Path(name).stem), name_key(name)

    def summary(self, folder: Path) -> str:
        """What is used of what was added, and what is not: "6 pictures, 5 captions; not used: notes.pdf"."""
        captions, masks = (
            sum((folder / f"{image_id}{suffix}").exists() for image_id in self.images)
            for suffix in (".txt", ".mask.png")
        )
        unused = [*self.unused, *(f"{key} (a caption without a picture)" for key in self.pending_captions)]
        parts = [
            count_of(count, name)
            for count, name in ((len(self.images), "picture"), (captions, "caption"), (masks, "mask"))
            if count
        ]
        shown = ", ".join(unused[:MAX_SHOWN]) + (
            f" and {len(unused) - MAX_SHOWN} more" if len(unused) > MAX_SHOWN else ""
        )
        return ", ".join(parts) + (f"; not used: {shown}" if unused else "")

    def copy_images(self, folder: Path, target: Path, captions: str) -> None:
        """Copy the draft's images from its folder to `target`: see `Drafts.copy_to_run`."""
        part = target.with_name("images.part")
        part.mkdir()
        for image_id, record in self.images.items():
            for path in (folder / f"{image_id}{suffix}" for suffix in (".png", ".txt", ".mask.png")):
                if path.exists() and (path.suffix != ".txt" or captions in ("auto", "txt")):
                    shutil.copyfile(path, part / path.name)
            if captions == "file-name" and (caption := ImageFile(Path(record["name"])).caption(captions).text):
                (part / f"{image_id}.txt").write_bytes(caption.encode("utf-8", "replace"))
        store_repeats(part, {image_id: int(record.get("repeats", 1)) for image_id, record in self.images.items()})
        os.replace(part, target)

    def describe(self, folder: Path, image_id: str, resolution: int, thumbnail: str) -> dict[str, Any]:
        """What the page shows of an image. `folder`: of the draft; `resolution`: sides below it are warned of."""
        from lib_ti.webui.images import image_quality

        record = self.images[image_id]
        return {
            "id": image_id, "name": record["name"], "width": record["width"], "height": record["height"],
            "caption": caption_of(folder, image_id),
            "mask": (folder / f"{image_id}.mask.png").exists(),
            "warnings": image_quality.warnings(image_id, self.images, resolution),
            "thumb": thumbnail,
        }  # fmt: skip

    def note_unused(self, names: Iterable[str], folder: Path) -> None:
        """Remember what is not used."""
        self.unused = list(dict.fromkeys([*self.unused, *names]))
        self.write(folder)

    def captions(self, folder: Path, source: str) -> dict[str, str]:
        """The caption of each image by its id, from `source`, a choice of the option `captions`; "" where there is none."""
        if source == "none":
            return dict.fromkeys(self.images, "")
        if source == "file-name":
            return {i: ImageFile(Path(image["name"])).caption(source).text for i, image in self.images.items()}
        return {i: caption_of(folder, i) for i in self.images}

    @classmethod
    def read(cls, folder: Path) -> Draft:
        """The draft in a folder; an empty one where there is none, or where its record is damaged."""
        try:
            record = json.loads((folder / _FILE_NAME).read_text(encoding="utf-8"))
            return cls(record["pictures"], record["waiting"], record["next"], record.get("unused", []))
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "pictures": self.images,
            "waiting": self.pending_captions,
            "next": self.next_id,
            "unused": self.unused,
        }
        files.atomic_write_bytes(folder / _FILE_NAME, json.dumps(record).encode())


def caption_of(folder: Path, image_id: str) -> str:
    """The caption that an image of the draft in `folder` was given; "" without one."""
    path = folder / f"{image_id}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""
