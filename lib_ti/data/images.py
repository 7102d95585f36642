"""Decode image files of any kind into upright 8-bit RGB(A), crop them, and read their masks.

Users have EXIF rotations, palettes, 16-bit grays and animations; Pillow alone would clip, ignore or misread some of them.
Files are untrusted: only decoders that run in this process are allowed, and sizes are bounded before decoding.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_ti import files
from lib_ti.data.colours import apply_profile, to_rgb
from lib_ti.data.decoders import available_formats, undecodable_reason
from lib_ti.errors import UnusableFile

MAX_PIXELS = 120_000_000
"""An image that claims more is a mistake or a decompression bomb."""

MAX_DECODED_PIXELS, MAX_DEEP_PIXELS = 1 << 26, 1 << 25
"""Of files that have to be decoded at full size, which all but JPEGs have to, and of those with more than 8 bits per channel."""

LONGEST_SIDE = 2048
"""Pixels of a prepared image's longer side; no training resolution needs more."""

MIN_ALPHA = 8
"""Of 255: where nothing in an image is less transparent, there is nothing in it to be learned."""

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What turns an image upright, by its EXIF orientation."""


@dataclass(frozen=True)
class DecodedImage:
    """`image`: upright, RGB or RGBA, 8 bits per channel, sRGB. `notes`: for the user, what may be wrong with it."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def decode(path: Path) -> Image.Image:
    """Decode an image: upright, RGB or RGBA, 8 bits per channel, sRGB; of an animation the first frame.

    Raises:
        UnusableFile: it is damaged, too large or not an image.
    """
    return decode_with_notes(path).image


def decode_with_notes(path: Path) -> DecodedImage:
    """Decode an image as `decode` does, and say what of it had to be guessed. Raises UnusableFile."""
    if not path.is_file():
        files.read_beginning(path, 0)  # which says what it is instead
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and Pillow's own size limit; ours below is an error
            image: Any = Image.open(file, formats=available_formats())
            if image.width * image.height > max_pixels(image):
                reason = f"{image.width}×{image.height} pixels is too large; reduce the picture first"
                raise UnusableFile(path, reason)
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # let libjpeg downscale by 2, 4 or 8 while decoding
            profile = image.info.get("icc_profile")
            image.load()
            orientation, orientation_note = _orientation(image)
            converted, profile_note = _to_8_bit(image, profile)
        upright = converted.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else converted
        return DecodedImage(upright, tuple(filter(None, (orientation_note, profile_note))))
    except UnusableFile:
        raise
    except MemoryError as error:
        raise UnusableFile(path, "takes too much memory to open; reduce the picture first") from error
    except Image.DecompressionBombError as error:
        raise UnusableFile(path, "far too large; reduce the picture first") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, ValueError, SyntaxError …
        raise UnusableFile(path, undecodable_reason(path, error)) from error


def max_pixels(image: Image.Image) -> int:
    """The most pixels that an opened image may have, by its kind: what decoding it takes memory for."""
    if image.format in ("JPEG", "MPO"):
        return MAX_PIXELS
    return MAX_DEEP_PIXELS if image.mode.startswith("I") or image.mode == "F" else MAX_DECODED_PIXELS


def _orientation(image: Image.Image) -> tuple[int, str]:
    """The EXIF orientation, and a note if EXIF is damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # EXIF may hold anything, and Pillow raises anything
        return 1, "its EXIF data is damaged; if the picture lies on its side, turn it and save it again"
    return (value if isinstance(value, int) else 1), ""


def check_picture(path: Path) -> DecodedImage:
    """Decode a picture to learn from, which proves that it is readable and shows something. Raises UnusableFile."""
    decoded = decode_with_notes(path)
    if decoded.image.mode == "RGBA" and _maximum(decoded.image.getchannel("A")) < MIN_ALPHA:
        raise UnusableFile(path, "it is transparent everywhere, so there is nothing to learn from")
    return decoded


def check_mask(path: Path) -> None:
    """Decode a mask. Raises UnusableFile if it cannot be read, or leaves nothing of its picture."""
    if _maximum(flatten(decode(path)).convert("L")) == 0:
        raise UnusableFile(path, "this mask is black everywhere, so nothing of its picture would count")


def _maximum(channel: Image.Image) -> int:
    extrema: Any = channel.getextrema()
    return int(extrema[1])


def read_size(path: Path) -> tuple[int, int]:
    """Width and height from the header, without decoding: for images that `prepare_image` wrote. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            return Image.open(file, formats=available_formats()).size
    except Exception as error:  # as in `decode`
        raise UnusableFile(path, "not a picture that can be read") from error


def _to_8_bit(image: Image.Image, profile: object) -> tuple[Image.Image, str]:
    """An image as RGB or RGBA in sRGB, and a note about its colour profile."""
    if image.mode == "CMYK":
        converted, note = apply_profile(image, profile)
        return converted.convert("RGB"), note
    if image.mode == "LAB":
        return to_rgb(image), ""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        return apply_profile(_scale_gray(values, is_integer=image.mode != "F").convert("RGB"), profile)
    if image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info:
        return apply_profile(image.convert("RGBA"), profile)
    return apply_profile(image.convert("RGB"), profile)


def _scale_gray(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], is_integer: bool) -> Image.Image:
    """Scale 16-bit and floating-point grays to 8 bits, which Pillow would clip instead. White is guessed from the maximum."""
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    maximum = float(values.max(initial=0.0))
    if is_integer:
        white = 255.0 if maximum <= 255 else 65535.0 if maximum <= 65535 else maximum
    else:
        white = 1.0 if maximum <= 1 else 255.0 if maximum <= 255 else maximum
    return Image.fromarray((values.clip(0, white) / white * 255).round().astype(np.uint8), "L")


def prepare_image(path: Path) -> Image.Image:
    """Decode an image for a run: upright, no side above `LONGEST_SIDE`, pixels only (no EXIF, GPS, comments, profile).

    Every image that is trained on comes through here, from a folder and from a browser. Raises UnusableFile.
    """
    return _strip_metadata(limit_size(check_picture(path).image))


def prepare_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Decode a mask ("L") for a run, at the `size` of the prepared image it belongs to. Raises UnusableFile."""
    check_mask(path)
    return _strip_metadata(flatten(decode(path)).convert("L").resize(size))


def limit_size(image: Image.Image, longest_side: int = LONGEST_SIDE) -> Image.Image:
    """Downscale an image so that neither side exceeds `longest_side`; smaller images are returned as they are."""
    if max(image.size) <= longest_side:
        return image
    scale = longest_side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _strip_metadata(image: Image.Image) -> Image.Image:
    stripped = Image.new(image.mode, image.size)
    stripped.paste(image)
    return stripped


def resize_and_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize to cover width × height, then crop the center."""
    scale = max(width / image.width, height / image.height)
    if scale == 1:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    # crop and resize in one call: resizing a long strip first would fill the memory
    x, y = max(0.0, image.width - width / scale) / 2, max(0.0, image.height - height / scale) / 2
    box = (x, y, image.width - x, image.height - y)
    return image.resize((width, height), Image.Resampling.LANCZOS, box)


def flatten(image: Image.Image) -> Image.Image:
    """Convert to RGB; transparent pixels become white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    background = Image.new("RGB", image.size, (255, 255, 255))
    background.paste(image, mask=image.getchannel("A"))
    return background


def read_mask(image: Image.Image, mask_path: Path | None) -> Image.Image | None:
    """The weight of each pixel in the loss ("L", at the image's size): the mask file's brightness, else the alpha channel.

    None where there is neither, or where all pixels weigh the same. Raises UnusableFile.
    """
    if mask_path is not None:
        mask = flatten(decode(mask_path)).convert("L").resize(image.size, Image.Resampling.BILINEAR)
    elif image.mode == "RGBA":
        mask = image.getchannel("A")
    else:
        return None
    low, high = mask.getextrema()
    return None if low == high else mask
