"""The decoders that this Pillow has, and what to say of a file that none of them can decode."""

from __future__ import annotations

import functools
import importlib
import logging
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from lib_ti.formats.file_kind import HEAD_BYTES, detect_kind, refusal

log = logging.getLogger("lib_ti")

_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF", "HEIF", "JXL", "PCX",
    "SGI",
)  # fmt: skip
_PLUGINS = {"HEIC": "pillow_heif", "AVIF": "pillow_avif", "JPEG XL": "pillow_jxl"}
"""Packages that give Pillow further decoders, where they are installed, by what the pictures are called."""
_PIP_NAMES = {"pillow_avif": "pillow-avif-plugin", "pillow_jxl": "pillow-jxl-plugin"}


@functools.cache
def available_formats() -> tuple[str, ...]:
    """The allowed formats that this Pillow can read. Its EPS reader, for one, would start Ghostscript."""
    Image.init()
    for name in filter(find_spec, _PLUGINS.values()):
        try:
            register = getattr(importlib.import_module(name), "register_heif_opener", None)
            if register:
                register()
        except Exception:  # a broken plugin costs its own format alone
            log.exception("%s is installed and cannot be used", name)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def undecodable_reason(path: Path, error: Exception) -> str:
    """Why a file could not be decoded: what it is instead, which decoder is missing, or that it is damaged."""
    with path.open("rb") as file:
        kind = detect_kind(file.read(HEAD_BYTES))
    for name, plugin in _PLUGINS.items():
        if kind and f" {name} " in kind.title and not _has_decoder(name):
            package = _PIP_NAMES.get(plugin, plugin.replace("_", "-"))
            how = "run install.py --heic" if name == "HEIC" else f"pip install {package}"
            return f"this is {kind.title}, for which there is no decoder here; save it as PNG or JPEG, or {how}"
    if kind and ("picture" not in kind.title or kind.advice):
        return refusal(kind, "a picture")
    if path.stat().st_size == 0:
        return "the file is empty"
    return "truncated" if "truncated" in str(error).lower() else "not a picture that can be read"


def _has_decoder(name: str) -> bool:
    return {"HEIC": "HEIF", "JPEG XL": "JXL"}.get(name, name) in available_formats()
