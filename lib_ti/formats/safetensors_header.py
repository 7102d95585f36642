"""Headers of safetensors files, read and written: what a file holds is known at once, and without torch.

A file consists of 8 bytes with the header's length (little-endian), the header in JSON, and the tensors' data.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lib_ti.errors import UnusableFile

Shape = tuple[int, ...]
MAX_HEADER_BYTES = 25_000_000  # a large checkpoint's takes a million; parsed, it takes up to twenty times its length
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_METADATA_KEY = "__metadata__"


class TensorInfo(NamedTuple):
    """A tensor's shape, and its dtype as safetensors calls it: "F32"."""

    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Header:
    """`tensors`, `offsets`: by name; where a tensor's data begins and ends, in bytes from `data_start` in the file."""

    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, tuple[int, int]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    data_start: int = 0

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: info.shape for name, info in self.tensors.items()}


class InvalidHeader(ValueError):
    """The file is no safetensors file, or damaged; the message is for the user."""


def read_safetensors_header(path: Path) -> Header:
    """The header of a safetensors file, whose data must be as long as the header says. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror})") from error
    except InvalidHeader as error:
        raise UnusableFile(path, str(error)) from error


def parse_header(content: bytes) -> Header:
    """The header of a whole safetensors file in memory. Raises InvalidHeader."""
    return _read(io.BytesIO(content), len(content))


def header_bytes(
    tensors: Mapping[str, TensorInfo], offsets: Mapping[str, tuple[int, int]], metadata: Mapping[str, str]
) -> bytes:
    """The beginning of a safetensors file, up to its data: sorted by name, and so reproducible to the byte.

    Its length is a multiple of 8, which aligns the data for readers that map the file into memory.
    """
    header: dict[str, Any] = {_METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    for name, (shape, dtype) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets[name])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def replace_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A whole safetensors file with other metadata. Raises InvalidHeader."""
    header = parse_header(content)
    return header_bytes(header.tensors, header.offsets, metadata) + content[header.data_start :]


def _read(file: BinaryIO, file_size: int) -> Header:
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not prefix:
        raise InvalidHeader("the file is empty")
    if MAX_HEADER_BYTES < length <= file_size - 8:
        raise InvalidHeader(f"its header is {length >> 20} MB long, which no model's is; it was not read")
    text = file.read(length) if 0 < length <= file_size - 8 else b""
    try:
        return _parse(json.loads(text.decode()), 8 + length, file_size)
    except InvalidHeader:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidHeader("damaged, or not a safetensors file") from error


def _parse(entries: Any, data_start: int, file_size: int) -> Header:
    metadata = entries.pop(_METADATA_KEY, None) or {}
    data_end = data_start + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    if data_end != file_size:
        reason = "truncated" if data_end > file_size else "longer than its header says"
        raise InvalidHeader(f"the file is {reason}; download it again")
    tensors, offsets = {}, {}
    for name, entry in entries.items():
        shape, dtype = tuple(int(size) for size in entry["shape"]), str(entry["dtype"])
        start, end = entry["data_offsets"]
        num_bytes = math.prod(shape) * _ITEM_BYTES.get(entry["dtype"], 0)  # 0: a dtype whose size is unknown here
        if not 0 <= start <= end or num_bytes not in (0, end - start):
            raise InvalidHeader(f"damaged: {name[:60]!r} is not as long as its shape says")
        tensors[name], offsets[name] = TensorInfo(shape, dtype), (start, end)
    return Header(tensors, offsets, {str(key): str(value) for key, value in metadata.items()}, data_start)
