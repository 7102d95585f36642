"""Embeddings that A1111 puts into pictures: as text in a PNG's chunks, and as strips of pixels left and right of the picture.

What is stored is the record of its `.pt`, in JSON, tensors as `{"TORCHTENSOR": [[...]]}`. The pixels survive where
programs drop the text, but not lossy compression. Nothing here needs torch; a picture's text is found without decoding it.
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

SUFFIXES = (".png", ".webp")
_KEYWORD = b"sd-ti-embedding"
_LONGEST = 16 << 20  # bytes of text: 75 vectors of SD2 take 2 MB
_PIXELS = 32_000_000
_LONGEST_NAME = 100  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"


def is_preview(path: Path) -> bool:
    """Whether A1111 takes a picture for a card, without a look into it."""
    return path.stem.lower().endswith(".preview")


def record_in(path: Path, pixels: bool = True) -> dict[str, Any] | None:
    """What A1111 stored in a picture, its tensors as numpy arrays; None for a plain picture or none at all.

    Raises UnusableFile where there is something, but damaged. `pixels`: whether to look at the pixels, too.
    """
    try:
        text = _text_in(path)
        if text is not None:
            return _record(base64.b64decode(text))
        strips = _strips(path) if pixels else None
        return _record(_inflated(strips)) if strips else None
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, OverflowError, KeyError, RecursionError, MemoryError, zlib.error) as error:
        raise UnusableFile(path, "the embedding in this picture is damaged") from error


def own_name(record: Mapping[str, Any]) -> str:
    """What an embedding in a picture is called, as A1111 has it; empty if it is nothing that people could write."""
    name = record.get("name")
    usable = isinstance(name, str) and name.strip() and name.isprintable() and len(name.encode()) <= _LONGEST_NAME
    return str(name) if usable else ""


def _record(text: bytes) -> dict[str, Any]:
    import numpy as np

    def tensors(found: dict[str, Any]) -> Any:
        return np.array(found["TORCHTENSOR"], dtype=np.float64) if "TORCHTENSOR" in found else found

    record = json.loads(text.decode(), object_hook=tensors)
    if not isinstance(record, dict):
        raise ValueError("no record")
    return record


def _inflated(data: bytes) -> bytes:
    engine = zlib.decompressobj()
    text = engine.decompress(data, _LONGEST)
    if not engine.eof:
        raise ValueError("incomplete, or far too long")
    return text


# --- text ----------------------------------------------------------------------------------------------------------


def _text_in(path: Path) -> bytes | None:
    """The embedding's text in a PNG file, which may be in any of the three kinds of chunks for text."""
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return None
        for kind, data in _texts(file):
            keyword, _, rest = data.partition(b"\0")
            if keyword != _KEYWORD:
                continue
            if kind == b"tEXt":
                return rest
            if kind == b"zTXt":
                return _inflated(rest[1:])
            packed, (_, _, text) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            return _inflated(text) if packed else text
    return None


def _texts(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of text, the others skipped unread. http://www.libpng.org/pub/png/spec/1.2/PNG-Chunks.html"""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= _LONGEST:
            data, check = file.read(length), file.read(4)
            if data.startswith(_KEYWORD) and check != struct.pack(">I", zlib.crc32(kind + data)):
                raise ValueError("a damaged chunk")
            yield kind, data
        elif kind == b"IEND":
            return
        else:
            file.seek(length + 4, 1)


# --- pixels --------------------------------------------------------------------------------------------------------


def _strips(path: Path) -> bytes | None:
    """The bytes in the low halves of the pixels, half of each on either side of the picture; None where there are none.

    A black column ends each strip. Both are hidden under a pattern from a linear congruential generator.
    """
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limit is a warning; the one below is kept
            with Image.open(path, formats=("PNG", "WEBP")) as image:
                if image.width * image.height > _PIXELS:
                    return None
                pixels = np.asarray(image.convert("RGB"))
    except Exception:  # no picture, or a damaged one, in whatever way a decoder may put it
        return None
    seen = (pixels > 0).all(axis=2)
    if not seen.any():
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    ends = np.flatnonzero(~low.any(axis=(0, 2)))
    if len(ends) < 2:
        return None
    left, right = low[:, : ends[0]], low[:, ends[-1] + 1 :]
    if left.shape != right.shape or not left.size:
        return None
    pattern = _pattern(left.size).reshape(left.shape)
    data = ((right ^ pattern) << 4 | (left ^ pattern)).tobytes()
    return data if data[:1] == b"\x78" and not int.from_bytes(data[:2], "big") % 31 else None  # zlib's mark


def _pattern(count: int) -> Any:
    """The low halves of that generator's first numbers: x' = 1664525 x + 1013904223 mod 2³², of which x mod 255 is taken.

    Each round knows the next as many numbers as there are, by a multiplier and an addend for that many steps at once.
    """
    import numpy as np

    multiplier, addend, mask = 1664525, 1013904223, (1 << 32) - 1
    numbers = np.array([addend], dtype=np.uint64)
    while len(numbers) < count:
        further = (numbers * np.uint64(multiplier) + np.uint64(addend)) & np.uint64(mask)
        numbers = np.concatenate([numbers, further])
        multiplier, addend = multiplier * multiplier & mask, (multiplier + 1) * addend & mask
    return (numbers[:count] % np.uint64(255)).astype(np.uint8) & np.uint8(0x0F)
