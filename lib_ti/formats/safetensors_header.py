"""What a file holds, by its header alone: quick, and without torch.

A safetensors file begins with eight bytes that give its header's length, then comes the header in JSON, then the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile

Shape = tuple[int, ...]
LONGEST = 25_000_000  # bytes: a large checkpoint's takes one million; parsed, it takes up to twenty times its length
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # a number's


@dataclass(frozen=True)
class Header:
    """Shapes and number formats of a file's tensors, by their names, and what it says of itself."""

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """The header of a safetensors file, whose data must be as long as it says. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = file.read(length) if 0 < length <= min(LONGEST, size - 8) else b""
        if not start:
            raise UnusableFile(path, "the file is empty")
        if LONGEST < length <= size - 8:
            raise UnusableFile(path, f"its header is {length >> 20} MB long, which no model's is; it was not read")
        return _parse(json.loads(text.decode()), size - 8 - length, path)
    except OSError as error:
        raise UnusableFile(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UnusableFile(path, "damaged, or not a safetensors file") from error


def _parse(found: Any, size: int, path: Path) -> Header:
    metadata = found.pop("__metadata__", None) or {}
    told = max((int(tensor["data_offsets"][1]) for tensor in found.values()), default=0)
    if told != size:
        how = "truncated" if told > size else "longer than its header says"
        raise UnusableFile(path, f"the file is {how}; download it again")
    shapes = {name: tuple(int(side) for side in tensor["shape"]) for name, tensor in found.items()}
    for name, tensor in found.items():
        start, end = tensor["data_offsets"]
        length = math.prod(shapes[name]) * _BYTES.get(tensor["dtype"], 0)
        if not 0 <= start <= end or length not in (0, end - start):
            raise UnusableFile(path, f"damaged: {name[:60]!r} is not as long as its shape says")
    return Header(
        shapes=shapes,
        dtypes={name: str(tensor["dtype"]) for name, tensor in found.items()},
        metadata={str(key): str(value) for key, value in metadata.items()},
    )


_TABLES = (
    ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
     "conditioner.embedders.1.model.token_embedding.weight"),
    ("conditioner.embedders.0.model.token_embedding.weight",),
    ("cond_stage_model.model.token_embedding.weight",),
    ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",),
    ("cond_stage_model.transformer.embeddings.token_embedding.weight",),
)  # fmt: skip
"""Where SDXL, its refiner, Stable Diffusion 2 and 1 keep their vocabularies' vectors."""


def vector_widths(path: Path) -> tuple[int, ...] | None:
    """How wide an embedding's vectors have to be for each text encoder of a checkpoint: (768,), or (768, 1280) for SDXL.

    None where it cannot be told: for other kinds of models, and for files that would have to be read whole.
    """
    try:
        if path.is_dir():
            return widths_of_folder(path)
        return widths_of(_shapes(path))
    except (UnusableFile, OSError):
        return None


def widths_of(shapes: Mapping[str, Shape]) -> tuple[int, ...] | None:
    """The same, of a checkpoint whose tensors have these names and shapes."""
    for tables in _TABLES:
        if all(len(shapes.get(name, ())) == 2 for name in tables):
            return tuple(shapes[name][1] for name in tables)
    return None


def _shapes(path: Path) -> Mapping[str, Shape]:
    with path.open("rb") as file:
        magic = file.read(9)
    if magic[8:9] == b"{":
        return read_header(path).shapes
    if magic[:2] != b"PK":  # PyTorch's older container cannot be looked into without reading its gigabytes
        return {}
    from lib_ti.formats.weights import open_weights

    return open_weights(path).shapes


def widths_of_folder(path: Path) -> tuple[int, ...] | None:
    """The same, of a diffusers folder."""
    widths = []
    for part in ("text_encoder", "text_encoder_2"):
        config = path / part / "config.json"
        if config.is_file():
            try:
                widths.append(int(json.loads(config.read_text(encoding="utf-8"))["hidden_size"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
    return tuple(widths) or None
