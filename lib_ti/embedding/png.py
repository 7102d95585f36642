"""Embeddings that AUTOMATIC1111 stores in images: in a PNG's text chunks, and in strips of pixels left and right of the image.

The content is the record of its `.pt` in JSON, tensors as `{"TORCHTENSOR": [[...]]}`. The strips survive programs that drop text
chunks, but not lossy compression. Nothing here needs torch, and text chunks are found without decoding the image.
"""

from __future__ import annotations

import base64
import json
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lib_ti.errors import UnusableFile

_KEYWORD = b"sd-ti-embedding"
_MAX_TEXT_BYTES = 16 << 20  # 75 vectors of SD2 take 2 MB
_MAX_PIXELS = 32_000_000
_MAX_NAME_BYTES = 100
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def is_preview(path: Path) -> bool:
    """Whether A1111 takes an image for an embedding's card by its name alone."""
    return path.stem.lower().endswith(".preview")


def read_record(path: Path, decode_pixels: bool = True) -> dict[str, Any] | None:
    """The record that A1111 stored in an image, its tensors as numpy arrays; None for any other file.

    Raises UnusableFile for a damaged record. `decode_pixels`: look for strips of pixels, too.
    """
    try:
        text = _find_text(path)
        if text is not None:
            return _parse_record(base64.b64decode(text))
        strips = _read_strips(path) if decode_pixels else None
        return _parse_record(_inflate(strips)) if strips else None
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, OverflowError, KeyError, RecursionError, MemoryError, zlib.error) as error:
        raise UnusableFile(path, "the embedding in this picture is damaged") from error


def stored_name(record: Mapping[str, Any]) -> str:
    """The embedding's name in a record, which A1111 uses; empty if it is no name that a prompt could hold."""
    name = record.get("name")
    usable = isinstance(name, str) and name.strip() and name.isprintable() and len(name.encode()) <= _MAX_NAME_BYTES
    return str(name) if usable else ""


def _parse_record(text: bytes) -> dict[str, Any]:
    import numpy as np

    def to_array(value: dict[str, Any]) -> Any:
        return np.array(value["TORCHTENSOR"], dtype=np.float64) if "TORCHTENSOR" in value else value

    record = json.loads(text.decode(), object_hook=to_array)
    if not isinstance(record, dict):
        raise ValueError("no record")
    return record


def _inflate(data: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    text = decompressor.decompress(data, _MAX_TEXT_BYTES)
    if not decompressor.eof:
        raise ValueError("incomplete, or far too long")
    return text


# --- text chunks ---------------------------------------------------------------------------------------------------


def _find_text(path: Path) -> bytes | None:
    """The embedding's text in a PNG file, in any of the three types of text chunks."""
    with path.open("rb") as file:
        if file.read(len(_PNG_MAGIC)) != _PNG_MAGIC:
            return None
        for chunk_type, data in _text_chunks(file):
            keyword, _, rest = data.partition(b"\0")
            if keyword != _KEYWORD:
                continue
            if chunk_type == b"tEXt":
                return rest
            if chunk_type == b"zTXt":
                return _inflate(rest[1:])
            compressed, (_, _, text) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            return _inflate(text) if compressed else text
    return None


def _text_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Types and data of the text chunks; others are skipped. http://www.libpng.org/pub/png/spec/1.2/PNG-Chunks.html"""
    while len(head := file.read(8)) == 8:
        length, chunk_type = struct.unpack(">I4s", head)
        if chunk_type in (b"tEXt", b"zTXt", b"iTXt") and length <= _MAX_TEXT_BYTES:
            data, crc = file.read(length), file.read(4)
            if data.startswith(_KEYWORD) and crc != struct.pack(">I", zlib.crc32(chunk_type + data)):
                raise ValueError("a damaged chunk")
            yield chunk_type, data
        elif chunk_type == b"IEND":
            return
        else:
            file.seek(length + 4, 1)


# --- pixels --------------------------------------------------------------------------------------------------------


def _read_strips(path: Path) -> bytes | None:
    """The compressed record in the strips of pixels, or None.

    Each strip is separated from the image by a black column. A byte's low half is in the left strip, its high half in the
    right one, each in the low half of a channel, xored with a pattern.
    """
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; the limit below is enforced
            with Image.open(path, formats=("PNG", "WEBP")) as image:
                if image.width * image.height > _MAX_PIXELS:
                    return None
                pixels = np.asarray(image.convert("RGB"))
    except Exception:  # no image, or a damaged one: decoders raise anything
        return None
    nonzero = (pixels > 0).all(axis=2)
    if not nonzero.any():
        return None
    rows, columns = np.flatnonzero(nonzero.any(axis=1)), np.flatnonzero(nonzero.any(axis=0))
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    black_columns = np.flatnonzero(~low.any(axis=(0, 2)))
    if len(black_columns) < 2:
        return None
    left, right = low[:, : black_columns[0]], low[:, black_columns[-1] + 1 :]
    if left.shape != right.shape or not left.size:
        return None
    pattern = _xor_pattern(left.size).reshape(left.shape)
    data = ((right ^ pattern) << 4 | (left ^ pattern)).tobytes()
    is_zlib = data[:1] == b"\x78" and not int.from_bytes(data[:2], "big") % 31
    return data if is_zlib else None


def _xor_pattern(count: int) -> Any:
    """The low halves of x mod 255, for the first numbers x of A1111's generator x' = 1664525 x + 1013904223 mod 2³².

    Each round computes as many further numbers as there are, with the multiplier and the increment of that many steps at once.
    """
    import numpy as np

    multiplier, increment, mask = 1664525, 1013904223, (1 << 32) - 1
    numbers = np.array([increment], dtype=np.uint64)
    while len(numbers) < count:
        further = (numbers * np.uint64(multiplier) + np.uint64(increment)) & np.uint64(mask)
        numbers = np.concatenate([numbers, further])
        multiplier, increment = multiplier * multiplier & mask, (multiplier + 1) * increment & mask
    return (numbers[:count] % np.uint64(255)).astype(np.uint8) & np.uint8(0x0F)
