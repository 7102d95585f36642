"""The record of a draft, draft.json in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti import files

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
