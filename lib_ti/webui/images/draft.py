"""The record of a draft, draft.json in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.data.image_files import ImageFile

_FILE_NAME = "draft.json"


@dataclass
class Draft:
    """The images of a draft in their order, and captions that were uploaded before their image.

    Attributes:
        images: by id, which is the stem of the image's file: its name, size and what `image_quality.measure` found.
        pending_captions: by the stem of the name of the image they are for.
        next_id: of the next image; ids are not used again.
    """

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    pending_captions: dict[str, str] = field(default_factory=dict)
    next_id: int = 0

    def find_by_stem(self, name: str) -> str | None:
        """The id of the image that a caption or mask file named `name` belongs to."""
        stem = Path(name).name.rsplit(".", 1)[0].removesuffix(".mask")
        return next((i for i, image in self.images.items() if Path(image["name"]).stem == stem), None)

    def captions(self, folder: Path, source: str) -> dict[str, str]:
        """The caption of each image by its id, from `source`, a choice of the option `captions`; "" where there is none."""
        if source == "none":
            return dict.fromkeys(self.images, "")
        if source == "file-name":
            return {i: ImageFile(Path(image["name"])).caption(source) for i, image in self.images.items()}
        return {i: caption_of(folder, i) for i in self.images}

    @classmethod
    def read(cls, folder: Path) -> Draft:
        """The draft in a folder; an empty one where there is none, or where its record is damaged."""
        try:
            record = json.loads((folder / _FILE_NAME).read_text(encoding="utf-8"))
            return cls(record["pictures"], record["waiting"], record["next"])
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record = {"pictures": self.images, "waiting": self.pending_captions, "next": self.next_id}
        files.atomic_write_bytes(folder / _FILE_NAME, json.dumps(record).encode())


def caption_of(folder: Path, image_id: str) -> str:
    """The caption that an image of the draft in `folder` was given; "" without one."""
    path = folder / f"{image_id}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""
