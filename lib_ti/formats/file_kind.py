"""What a file is by its first bytes, whatever its name; and, where it is of no use, what to do about it."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lib_ti import files

HEAD_BYTES = 512


@dataclass(frozen=True)
class FileKind:
    """`title`: what it is, with its article; `suffixes` that such a file may have; `advice`: what to do with it instead."""

    title: str
    suffixes: tuple[str, ...] = ()
    advice: str = ""


SAFETENSORS = FileKind("a safetensors file", (".safetensors",))
PICKLE = FileKind("a PyTorch file", (".pt", ".bin", ".ckpt", ".pth"))
_PICTURE_ADVICE = "save it as PNG or JPEG"
_UNPACK = "unpack it and use what is in it"
_DOWNLOAD = "download the file itself"

_MAGIC: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", FileKind("a PNG picture", (".png",))),
    (0, b"\xff\xd8\xff", FileKind("a JPEG picture", (".jpg", ".jpeg"))),
    (0, b"GIF8", FileKind("a GIF picture", (".gif",))),
    (0, b"II*\0", FileKind("a TIFF picture", (".tif", ".tiff"))),
    (0, b"MM\0*", FileKind("a TIFF picture", (".tif", ".tiff"))),
    (0, b"\xff\x0a", FileKind("a JPEG XL picture", (".jxl",))),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", FileKind("a JPEG XL picture", (".jxl",))),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", FileKind("a JPEG 2000 picture", (".jp2",))),
    (0, b"8BPS", FileKind("a Photoshop document", (".psd",), _PICTURE_ADVICE)),
    (0, b"gimp xcf", FileKind("a GIMP document", (".xcf",), _PICTURE_ADVICE)),
    (0, b"v/1\x01", FileKind("an OpenEXR picture", (".exr",), _PICTURE_ADVICE)),
    (0, b"%!PS", FileKind("a PostScript document", (".eps",), _PICTURE_ADVICE)),
    (0, b"%PDF", FileKind("a PDF document", (".pdf",), "save its pages as PNG or JPEG")),
    (
        0,
        b"GGUF",
        FileKind("a gguf file", (".gguf",), "its weights are quantised; use the original .safetensors checkpoint"),
    ),
    (0, b"\x1f\x8b", FileKind("a gzip archive", (".gz",), _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", (".7z",), _UNPACK)),
    (0, b"Rar!\x1a\x07", FileKind("a rar archive", (".rar",), _UNPACK)),
    (0, b"\xfd7zXZ\0", FileKind("an xz archive", (".xz",), _UNPACK)),
    (0, b"BZh", FileKind("a bzip2 archive", (".bz2",), _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a zstd archive", (".zst",), _UNPACK)),
    (257, b"ustar", FileKind("a tar archive", (".tar",), _UNPACK)),
    (0, b"\x1aE\xdf\xa3", FileKind("a video", (".mkv", ".webm"), "save single frames of it as PNG or JPEG")),
    (0, b"\x89HDF", FileKind("an HDF5 file", (".h5",))),
    (0, b"\x93NUMPY", FileKind("a numpy array", (".npy",))),
    (0, b"SQLite format 3\0", FileKind("a database")),
    (0, b"MZ", FileKind("a Windows program")),
    (0, b"\x7fELF", FileKind("a program")),
)
_BRANDS = (
    (FileKind("an AVIF picture", (".avif",)), {b"avif", b"avis"}),
    (FileKind("a HEIC picture", (".heic", ".heif")), {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}),
)  # fmt: skip
"""Pictures in the ISO base media format, by the brands that their first box may name. AVIF's often name HEIC's too."""

_VIDEO = FileKind("a video", (".mp4", ".mov"), "save single frames of it as PNG or JPEG")
_WEBP = FileKind("a WebP picture", (".webp",))
_BMP = FileKind("a BMP picture", (".bmp",))
ZIP = FileKind("a zip archive", (".zip",), _UNPACK)
_LFS_POINTER = FileKind("a Git LFS pointer", (), "fetch it with: git lfs pull")
_ANNEX_POINTER = FileKind("a git-annex pointer", (), "fetch it with: git annex get")
_SVG = FileKind("an SVG drawing", (".svg",), _PICTURE_ADVICE)
_HTML = FileKind("a web page (HTML)", (".html",), f"the download has led to a page; {_DOWNLOAD}")
_XML = FileKind("an XML document", (".xml",), f"often a server's error message; {_DOWNLOAD}")
_JSON = FileKind("a JSON text", (".json",), f"a server's error message, or a file that belongs to another; {_DOWNLOAD}")
_TEXT = FileKind("a text", (".txt",), _DOWNLOAD)
_ZEROS = FileKind("nothing but zeros", (), "the download was not finished; download it again")

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl",
    ".jp2", ".j2k", ".tga", ".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".mpo", ".sgi",
)  # fmt: skip
"""That names of pictures end in, the common ones; a picture of another name is one by its content."""


def detect_kind(head: bytes) -> FileKind | None:
    """The kind of a file that begins with `head` (`HEAD_BYTES`, or all of a shorter file); None if it is unknown.

    >>> detect_kind(b"<!DOCTYPE html><html>").title
    'a web page (HTML)'
    """
    if head[8:10] in (b'{"', b"{ ", b"{}", b"{\n") and int.from_bytes(head[:8], "little") < 1 << 32:
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return PICKLE if re.search(rb"(/|^)(data\.pkl|version|byteorder|\.format_version)", head[30:160]) else ZIP
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return _BMP
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if len(head) >= 16 and not any(head):
        return _ZEROS
    return _text_kind(head)


def file_kind(path: Path) -> FileKind | None:
    """The kind of a file, or None. Raises UnusableFile for what cannot be read, and for an empty file."""
    kind = detect_kind(files.read_header(path, HEAD_BYTES))
    if kind is ZIP:
        try:
            with zipfile.ZipFile(path) as archive:
                holds_pickle = any(name.endswith("data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            holds_pickle = True  # what reads PyTorch files says what is wrong
        return PICKLE if holds_pickle else ZIP
    return kind


def refusal(kind: FileKind, wanted: str) -> str:
    """The sentence for a file of a kind that is of no use. `wanted`: what it should be, such as "a checkpoint"."""
    advice = f"; {kind.advice}" if kind.advice else ""
    return f"this is {kind.title}, not {wanted}{advice}"


def _iso_media(head: bytes) -> FileKind:
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    return next((kind for kind, names in _BRANDS if names & brands), _VIDEO)


def _text_kind(head: bytes) -> FileKind | None:
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        return _LFS_POINTER
    if b"/annex/objects/" in head[:200]:
        return _ANNEX_POINTER
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text):
        return _SVG
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta", b"<!--")) or (
        text.startswith(b"<?xml") and b"<html" in text
    ):
        return _HTML
    if re.match(rb"<[?!a-z]", text):
        return _XML
    is_text = bool(text) and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head)
    if is_text and text[:1] in b"{[" and re.match(rb'[{\[]\s*(["\[{\]}]|-?\d|null|true|false)', text):
        return _JSON
    with_letters = bool(re.search(rb"[a-z\x80-\xff]{2}", text))
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:  # a character that the end of `head` cuts in two is none
        is_text = is_text and error.start > len(head) - 4
    return _TEXT if is_text and with_letters else None
