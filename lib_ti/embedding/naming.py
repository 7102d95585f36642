"""Whether a file is what its name's end says, told by its first bytes. The WebUIs go by the end alone."""

from __future__ import annotations

from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.files import read_header

_PICKLES = (".pt", ".bin")


def well_named(path: Path, suffix: str) -> None:
    """Raises UnusableFile for a file that cannot be one that ends in `suffix`, saying what it is rather."""
    start = read_header(path)
    if suffix not in (".safetensors", *_PICKLES, ".png", ".webp"):
        return  # of which more is said
    title, ends = _by_content(start)
    if ends and suffix not in ends:
        raise UnusableFile(path, f"by its content it is {title}; let its name end in {ends[0]}")
    if not ends and suffix in (".png", ".webp"):
        raise UnusableFile(path, "this is no PNG or WebP picture")


def _by_content(start: bytes) -> tuple[str, tuple[str, ...]]:
    """What begins so, and how its name may end; nothing where that is not known."""
    if start[8:10] in (b'{"', b"{ ", b"{}"):
        return "a safetensors file", (".safetensors",)
    if start[:4] == b"PK\x03\x04" or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return "a PyTorch file", _PICKLES
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "a picture", (".png", ".webp")  # Pillow, and with it A1111, does not mind the one for the other
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a picture", (".webp", ".png")
    return "", ()
