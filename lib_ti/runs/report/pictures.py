"""What a report shows and knows of picture files: small copies to embed, and a few figures that need no model."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

JPEG_QUALITY = 84
PNG_SIDE = 160  # up to this size PNG is as small as JPEG, and exact
HASH_SIDE = 16


def data_uri(path: Path, side: int) -> str | None:
    """The picture as a data URI, its longer side at most `side` pixels; None if it cannot be read."""
    image = _open(path)
    if image is None:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= PNG_SIDE else "jpeg"
    image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": JPEG_QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Looks:
    """Figures of a picture.

    Attributes:
        size: (width, height) in pixels.
        fingerprint: bits of which neighbour is brighter, in a small grey copy; alike for pictures that look alike.
        redness: how much red exceeds the other colours, the mean over all pixels, 0 to 1.
        border: mean colour of its outermost pixels, 0 to 255 each.
    """

    size: tuple[int, int]
    fingerprint: int
    redness: float
    border: tuple[float, float, float]

    def difference(self, other: Looks) -> float:
        """The share of the fingerprint's bits that differ: 0 for identical pictures, about 0.5 for unrelated ones."""
        return (self.fingerprint ^ other.fingerprint).bit_count() / HASH_SIDE**2


def looks_of(path: Path) -> Looks | None:
    """The figures of a picture; None if it cannot be read."""
    image = _open(path)
    if image is None:
        return None
    grey = [*image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX).getdata()]
    fingerprint = 0
    for row in range(HASH_SIDE):
        for column in range(HASH_SIDE):
            i = row * (HASH_SIDE + 1) + column
            fingerprint = fingerprint << 1 | (grey[i] > grey[i + 1])
    small = image.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX)
    pixels = [*small.getdata()]
    redness = sum(max(0, r - max(g, b)) for r, g, b in pixels) / len(pixels) / 255
    edge = [
        pixels[y * HASH_SIDE + x]
        for y in range(HASH_SIDE)
        for x in range(HASH_SIDE)
        if x in (0, HASH_SIDE - 1) or y in (0, HASH_SIDE - 1)
    ]
    red, green, blue = (sum(pixel[channel] for pixel in edge) / len(edge) for channel in range(3))
    return Looks(image.size, fingerprint, redness, (red, green, blue))


def _open(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            converted: Image.Image = image.convert("RGB")
            return converted
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
