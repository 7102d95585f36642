"""What an author says about an embedding, and the keys of its file's metadata that carry it.

modelspec.*: Stability AI's Model Metadata Standard 1.0.1.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem
from lib_ti.formats.safetensors_header import parse_header, replace_metadata

THUMBNAIL_SIDE = 256  # pixels
MAX_LENGTHS = {"description": 2000, "author": 200, "license": 200}  # characters
_THUMBNAIL = "modelspec.thumbnail"
_KEYS = {_THUMBNAIL, *(f"modelspec.{name}" for name in MAX_LENGTHS)}
LICENSES = (
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CreativeML Open RAIL-M",
    "All rights reserved",
)
"""Suggestions; any text will do."""


@dataclass(frozen=True)
class About:
    """Texts for whoever uses the embedding; empty ones are left out."""

    description: str = ""
    author: str = ""
    license: str = ""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> About:
        """Raises BadInput for what is no text, is too long, or is not known."""
        problems = [
            Problem(name, "is not known; description, author and license are") for name in record.keys() - MAX_LENGTHS
        ]
        for name, limit in MAX_LENGTHS.items():
            text = record.get(name) or ""
            if not isinstance(text, str) or not _is_printable(text):
                problems.append(Problem(name, "is not a text"))
            elif len(text) > limit:
                problems.append(Problem(name, f"is too long: {len(text)} characters; {limit} are allowed"))
        if problems:
            raise BadInput(problems)
        return cls(**{name: (record.get(name) or "").strip() for name in MAX_LENGTHS})

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> About:
        """What an embedding's file says."""
        return cls(**{name: metadata.get(f"modelspec.{name}", "") for name in MAX_LENGTHS})

    def metadata(self) -> dict[str, str]:
        """The metadata keys and their values."""
        return {f"modelspec.{name}": text for name, text in asdict(self).items() if text}


def with_about(content: bytes, about: About, picture: Path | None = None) -> bytes:
    """An embedding's `.safetensors` with these texts, and a thumbnail of `picture`, in its metadata instead of earlier ones.

    With neither it is the file that the training wrote, to the byte.
    """
    metadata = {
        key: value for key, value in parse_header(content).metadata.items() if key not in _KEYS
    } | about.metadata()
    if picture is not None:
        metadata[_THUMBNAIL] = thumbnail_url(picture)
    return replace_metadata(content, metadata)


def thumbnail_url(picture: Path) -> str:
    """A picture as a small JPEG in a data URL, without its metadata."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _is_printable(text: str) -> bool:
    """Whether a text has no control characters but line breaks, and no lone surrogates, which UTF-8 cannot hold."""
    return all(c == "\n" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) != 127) for c in text)
