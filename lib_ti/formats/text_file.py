"""Text files of users, in whatever encoding their programs write: captions, templates, configurations.

They lie beside other files and may be anything under that name, so only regular files up to a size are read.
"""

from __future__ import annotations

import codecs
import locale
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lib_ti import files
from lib_ti.errors import UnusableFile

MAX_TEXT_BYTES = 1 << 18

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class DecodedText:
    """`guessed`: nothing says that `encoding` is right; it is the last one tried, in which any bytes are text."""

    text: str
    encoding: str
    guessed: bool = False


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> DecodedText:
    """Read and decode a text file. Raises UnusableFile for what is no regular file, longer, or no text."""
    data = files.read_beginning(path, max_bytes + 1)
    if len(data) > max_bytes:
        raise UnusableFile(path, f"larger than {max_bytes >> 10} kB, which no such text is; it was not read")
    try:
        return decode(data)
    except ValueError as error:
        raise UnusableFile(path, str(error)) from error


def decode(data: bytes, cut_off: bool = False) -> DecodedText:
    """Decode text: by its byte order mark, else as UTF-8, else as the system does, else as Latin-1 (as browsers read it).

    `cut_off`: it is the beginning of a longer text; a part of a character at its end is left out. Raises ValueError, with a
    reason for the user, if it is no text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return DecodedText(_decode_beginning(data[len(mark) :], encoding, errors="replace"), encoding)
    if 0 in data:  # no text but that of UTF-16 and UTF-32 holds many zeros
        if wide := _wide_encoding(data):
            return DecodedText(_decode_beginning(data, wide, "replace"), wide)
        if data.count(0) > len(data) // 10 or re.search(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]", data):
            raise ValueError("this is no text; it holds null characters")
        data = data.replace(b"\0", b" ")
    with suppress(UnicodeDecodeError):
        return DecodedText(_decode_beginning(data, "utf-8") if cut_off else data.decode("utf-8"), "utf-8")
    system = codecs.lookup(locale.getpreferredencoding(False)).name
    if system not in ("utf-8", "ascii"):
        with suppress(UnicodeDecodeError):
            return DecodedText(_decode_beginning(data, system) if cut_off else data.decode(system), system)
    with suppress(UnicodeDecodeError):
        return DecodedText(data.decode("cp1252"), "latin-1", guessed=True)
    return DecodedText(data.decode("latin-1"), "latin-1", guessed=True)


def _decode_beginning(data: bytes, encoding: str, errors: str = "strict") -> str:
    return codecs.getincrementaldecoder(encoding)(errors).decode(data)


def _wide_encoding(data: bytes) -> str:
    """The encoding of text without a byte order mark, from where its zeros are; "" if they are elsewhere."""
    quarters = [data[i::4].count(0) / max(1, len(data[i::4])) for i in range(4)]
    if min(quarters[2:]) > 0.9 and quarters[0] < 0.1:
        return "utf-32-le"
    if min(quarters[:2]) > 0.9 and quarters[3] < 0.1:
        return "utf-32-be"
    even, odd = data[::2].count(0) / len(data[::2]), data[1::2].count(0) / max(1, len(data[1::2]))
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    if even > 0.3 and odd < 0.05:
        return "utf-16-be"
    return ""
