"""Checks that a file is what its suffix says, by its magic bytes: the WebUIs go by the suffix alone."""

from __future__ import annotations

from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.files import read_header

PICKLE_SUFFIXES = (".pt", ".bin")
IMAGE_SUFFIXES = (".png", ".webp")


def check_suffix(path: Path, suffix: str) -> None:
    """Raises UnusableFile for a file whose content is of another type than `suffix`, naming the type it is."""
    magic = read_header(path)
    if suffix not in (".safetensors", *PICKLE_SUFFIXES, *IMAGE_SUFFIXES):
        return  # refused with a better message by the reader
    title, suffixes = _detect(magic)
    if suffixes and suffix not in suffixes:
        raise UnusableFile(path, f"by its content it is {title}; let its name end in {suffixes[0]}")
    if not suffixes and suffix in IMAGE_SUFFIXES:
        raise UnusableFile(path, "this is no PNG or WebP picture")


def _detect(magic: bytes) -> tuple[str, tuple[str, ...]]:
    """The type of a file that begins with these bytes, and the suffixes it may have; none if the type is unknown."""
    if magic[8:10] in (b'{"', b"{ ", b"{}"):
        return "a safetensors file", (".safetensors",)
    if magic[:4] == b"PK\x03\x04" or magic[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return "a PyTorch file", PICKLE_SUFFIXES
    if magic[:8] == b"\x89PNG\r\n\x1a\n":
        return "a picture", (".png", ".webp")  # Pillow, and with it A1111, opens either under either name
    if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
        return "a picture", (".webp", ".png")
    return "", ()
