"""Colours of images as sRGB, which the models have learned: embedded ICC profiles are applied, not ignored."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

_SPACE = slice(16, 20)  # of a profile: the colours that it is for
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
DAMAGED_PROFILE = "its colour profile is damaged or not supported; its colours were taken for sRGB"


def to_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit image of any mode without alpha as RGB; CIELAB, which Pillow alone does not convert, too."""
    if image.mode != "LAB":
        return image.convert("RGB")
    from PIL import ImageCms

    return _transform(image, ImageCms.createProfile("LAB"), "LAB")


def apply_profile(image: Image.Image, profile: object) -> tuple[Image.Image, str]:
    """An image in RGB or RGBA (CMYK and gray as they are) in sRGB, and a note for the user if the profile is of no use.

    `profile`: the bytes in the image's file. A CMYK image becomes RGB; alpha stays as it is.
    """
    if not isinstance(profile, bytes) or not profile:
        return image, ""
    mode = _MODES.get(profile[_SPACE])
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    if (mode == "CMYK") != (colours.mode == "CMYK"):
        return image, ""  # a profile that is not this image's: many programs leave the old one when they convert
    try:
        from PIL import ImageCms

        loaded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode is None:
            return image, DAMAGED_PROFILE
        if "srgb" in ImageCms.getProfileDescription(loaded).lower():
            return image, ""
        converted = _transform(colours.getchannel(0) if mode == "L" else colours, loaded, mode)
    except ImportError:
        return image, "its colour profile was ignored: this Pillow cannot apply profiles"
    except Exception:  # littlecms, and what Pillow makes of its errors: PyCMSError, OSError, ValueError, TypeError
        return image, DAMAGED_PROFILE
    if alpha:
        converted.putalpha(alpha)
    return converted, ""


def _transform(image: Image.Image, profile: Any, mode: str) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted
