"""What an embedding file is by its content. The WebUIs go by its suffix alone; what reads one here goes by its content."""

from __future__ import annotations

from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.files import read_header
from lib_ti.formats.file_kind import PICKLE, SAFETENSORS, FileKind, file_kind, refusal

PICKLE_SUFFIXES = (".pt", ".bin")
IMAGE_SUFFIXES = (".png", ".webp")
_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES, *IMAGE_SUFFIXES)


def check_suffix(path: Path, suffix: str) -> None:
    """Raises UnusableFile for a file whose content is of another type than `suffix`, naming the type it is."""
    kind = _kind(path, suffix)
    suffixes = _suffixes_of(kind)
    if suffixes and suffix not in suffixes:
        title = "a picture" if suffixes[0] in IMAGE_SUFFIXES else kind.title if kind else ""
        raise UnusableFile(path, f"by its content it is {title}; let its name end in {suffixes[0]}")
    if not suffixes and suffix in IMAGE_SUFFIXES:
        raise UnusableFile(path, "this is no PNG or WebP picture")


def suffix_by_content(path: Path, suffix: str) -> str:
    """The suffix that a file should have: `suffix` itself, unless its content says otherwise. Raises UnusableFile."""
    suffixes = _suffixes_of(_kind(path, suffix))
    return suffix if not suffixes or suffix in suffixes or suffix not in _SUFFIXES else suffixes[0]


def _kind(path: Path, suffix: str) -> FileKind | None:
    """The kind of a file, if it may be an embedding or is unknown. Raises UnusableFile for other kinds."""
    if suffix not in _SUFFIXES:  # refused with a better message by the reader
        read_header(path)
        return None
    kind = file_kind(path)
    if kind and not _suffixes_of(kind) and suffix not in IMAGE_SUFFIXES:
        raise UnusableFile(path, refusal(kind, "an embedding"))
    return kind


def _suffixes_of(kind: FileKind | None) -> tuple[str, ...]:
    """The suffixes that an embedding of a kind may have; none if there is no such embedding."""
    if kind is SAFETENSORS:
        return (".safetensors",)
    if kind is PICKLE:
        return PICKLE_SUFFIXES
    if kind and kind.suffixes[:1] in ((".png",), (".webp",)):
        # Pillow, and with it A1111, opens either under either name
        return (kind.suffixes[0], *(s for s in IMAGE_SUFFIXES if s != kind.suffixes[0]))
    return ()
