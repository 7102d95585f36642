"""What may be wrong with a picture for learning: too small, out of focus, or in the draft already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOOKED_AT = 256  # pixels of the long side at which focus is judged, so that cameras' resolutions do not matter
BLURRED = 12.0  # variance of the Laplacian at that size; measured on photographs blurred more and more
ALIKE = 4  # of 256 bits: the same photograph, saved or scaled differently


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
        if (int(about["print"], 16) ^ int(its["print"], 16)).bit_count() <= ALIKE:
            found.append(f"Same as picture {number}")
            break
    return found


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
    """256 bits: where brightness rises from left to right in a 17×16 copy ("dHash"), with transparency on grey."""
    import numpy as np
    from PIL import Image

    if picture.mode == "RGBA":
        ground = Image.new("RGB", picture.size, (128, 128, 128))
        ground.paste(picture, mask=picture.getchannel("A"))
        picture = ground
    small = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return np.packbits(bits).tobytes().hex()
