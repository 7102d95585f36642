"""What may be wrong with a picture for learning: too small, out of focus, or in the draft already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOOKED_AT = 256  # pixels of the long side at which focus is judged, so that cameras' resolutions do not matter
BLURRED = 12.0  # variance of the Laplacian at that size: a cautious bound, so that few sharp pictures are called blurry
ALIKE = 8  # levels of brightness in any field of the fingerprint: the same photograph, saved or scaled differently
FIELDS = 12  # of the fingerprint, each way


def measure(picture: Any) -> dict[str, Any]:
    """What is told from a PIL picture once: size, sharpness, and a fingerprint that survives scaling and saving."""
    return {
        "width": picture.width,
        "height": picture.height,
        "sharpness": _sharpness(picture),
        "print": _fingerprint(picture),
    }


def warnings(picture: str, all_pictures: Mapping[str, Mapping[str, Any]], side: int) -> list[str]:
    """Sentences about one picture of a draft, for its owner."""
    about, found = all_pictures[picture], []
    if min(about["width"], about["height"]) < side:
        found.append(f"Small: {about['width']}×{about['height']}. {side} or more is better.")
    if about["sharpness"] is not None and about["sharpness"] < BLURRED:
        found.append("Blurry")
    for number, (other, its) in enumerate(all_pictures.items(), 1):
        if other == picture:
            break
        if _alike(about["print"], its["print"]):
            found.append(f"Same as picture {number}")
            break
    return found


def _alike(one: str, other: str) -> bool:
    return all(abs(a - b) <= ALIKE for a, b in zip(bytes.fromhex(one), bytes.fromhex(other), strict=True))


def _sharpness(picture: Any) -> float | None:
    """Variance of the Laplacian (Pech-Pacheco et al., 2000); None for pictures too small to be judged."""
    import numpy as np

    if max(picture.size) < LOOKED_AT:
        return None
    gray = picture.convert("L")
    gray.thumbnail((LOOKED_AT, LOOKED_AT))
    p = np.asarray(gray, dtype=np.float64)
    if min(p.shape) < 3:
        return None
    laplacian = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    return round(float(laplacian.var()), 2)


def _fingerprint(picture: Any) -> str:
    """The brightness of 12×12 fields, with transparency on grey.

    Where it rises and falls would be told by fewer bits, but on a plain ground by noise alone.
    """
    from PIL import Image

    if picture.mode == "RGBA":
        ground = Image.new("RGB", picture.size, (128, 128, 128))
        ground.paste(picture, mask=picture.getchannel("A"))
        picture = ground
    small: bytes = picture.convert("L").resize((FIELDS, FIELDS), Image.Resampling.BOX).tobytes()
    return small.hex()
