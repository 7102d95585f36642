"""Warn of images that are bad to learn from: too small, blurry, or duplicates of others in the draft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHARPNESS_SIDE = 256
"""The longer side, in pixels, at which sharpness is measured, so that it does not depend on the camera's resolution."""

MIN_SHARPNESS = 12.0
"""Variance of the Laplacian; low enough that hardly any sharp image is called blurry."""

FINGERPRINT_SIDE = 12  # cells

MAX_CELL_DIFFERENCE = 8
"""Gray levels that the cells of two fingerprints of the same photograph may differ by, scaled or compressed differently."""


def measure(image: Any) -> dict[str, Any]:
    """Size, sharpness, and a fingerprint that survives scaling and compression, of a PIL image; JSON values."""
    return {
        "width": image.width, "height": image.height, "sharpness": _sharpness(image), "print": _fingerprint(image),
    }  # fmt: skip


def warnings(image_id: str, records: Mapping[str, Mapping[str, Any]], resolution: int) -> list[str]:
    """Sentences for the user about one image of a draft. `records`: what `measure` found, of all images by their ids."""
    record, sentences = records[image_id], []
    if min(record["width"], record["height"]) < resolution:
        sentences.append(f"Small: {record['width']}×{record['height']}. {resolution} or more is better.")
    if record["sharpness"] is not None and record["sharpness"] < MIN_SHARPNESS:
        sentences.append("Blurry")
    for number, (other_id, other) in enumerate(records.items(), 1):
        if other_id == image_id:
            break
        if _is_duplicate(record["print"], other["print"]):
            sentences.append(f"Same as picture {number}")
            break
    return sentences


def _is_duplicate(fingerprint: str, other: str) -> bool:
    cells = zip(bytes.fromhex(fingerprint), bytes.fromhex(other), strict=True)
    return all(abs(a - b) <= MAX_CELL_DIFFERENCE for a, b in cells)


def _sharpness(image: Any) -> float | None:
    """Variance of the Laplacian (Pech-Pacheco et al., 2000); None for images too small to be measured."""
    import numpy as np

    if max(image.size) < SHARPNESS_SIDE:
        return None
    gray = image.convert("L")
    gray.thumbnail((SHARPNESS_SIDE, SHARPNESS_SIDE))
    p = np.asarray(gray, dtype=np.float64)
    if min(p.shape) < 3:
        return None
    laplacian = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    return round(float(laplacian.var()), 2)


def _fingerprint(image: Any) -> str:
    """The mean brightness of 12×12 cells, as hexadecimal digits; transparent pixels count as gray.

    A difference hash would need fewer bits, but on a plain background its bits are noise.
    """
    from PIL import Image

    if image.mode == "RGBA":
        background = Image.new("RGB", image.size, (128, 128, 128))
        background.paste(image, mask=image.getchannel("A"))
        image = background
    cells: bytes = image.convert("L").resize((FINGERPRINT_SIDE, FINGERPRINT_SIDE), Image.Resampling.BOX).tobytes()
    return cells.hex()
