"""Embedding files, in and out. docs/formats.md tells which program reads and writes what.

Written: `.safetensors` with the one key `emb_params`, or `clip_l` and `clip_g` for SDXL, which every WebUI takes; A1111's
`.pt`; diffusers' file, or its two for SDXL. The first is written here byte by byte, with a sorted header and neither date
nor path in it, so that the same training gives the same file; safetensors' own writer orders metadata differently in each
process. Whatever is written is read back before it takes its place.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load

from lib_ti import files
from lib_ti.embedding.read import read as read
from lib_ti.embedding.read import read_as, second_file
from lib_ti.embedding.value import Embedding
from lib_ti.errors import TextualInversionError, UnusableFile

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, reproducible to the byte: 8 bytes of header length, the header in JSON, the data."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    blobs, at = [], 0
    for name, tensor in sorted(tensors.items()):
        blob = _data(tensor)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def _data(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def portable(embedding: Embedding) -> bytes:
    """The `.safetensors` every loader takes: `emb_params`, or `clip_l` and `clip_g` where there are two encoders."""
    vectors = _fp32(embedding)
    tensors = {"emb_params": next(iter(vectors.values()))} if len(vectors) == 1 else vectors
    data = safetensors_bytes(tensors, embedding.metadata)
    again = load(data)
    if {name: _data(tensor) for name, tensor in again.items()} != {
        name: _data(tensor) for name, tensor in tensors.items()
    }:
        raise TextualInversionError("the embedding does not read as it was written; nothing was saved")
    return data


def a1111(embedding: Embedding) -> bytes:
    """A1111's own `.pt`, in PyTorch's old container, which its unpickler takes from any release.

    For SDXL it holds the vectors and nothing else: A1111 takes every value of that dictionary for a tensor.
    """
    vectors, told = _fp32(embedding), embedding.metadata
    record: dict[str, Any] = dict(vectors)
    if len(vectors) == 1:
        steps = told.get("steps", "")
        record = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": next(iter(vectors.values()))},
            "name": embedding.name,
            "step": int(steps) if steps.isdecimal() and len(steps) < 10 else 0,
            "sd_checkpoint": told.get("checkpoint_hash") or told.get("checkpoint_sha256", "")[:10] or None,
            "sd_checkpoint_name": told.get("checkpoint_name"),
        }
        record["metadata"] = dict(sorted(told.items()))  # ours, which nobody else looks at
    buffer = io.BytesIO()
    torch.save(record, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def diffusers(embedding: Embedding) -> tuple[bytes, ...]:
    """diffusers' file of one key, the token, and its vectors; for SDXL one such file for each text encoder."""
    metadata = {k: v for k, v in embedding.metadata.items() if k != "token"} | {"format": "pt"}
    return tuple(safetensors_bytes({embedding.name: vectors}, metadata) for vectors in _fp32(embedding).values())


def _fp32(embedding: Embedding) -> dict[str, torch.Tensor]:
    return {encoder: vectors.detach().float().cpu().clone() for encoder, vectors in embedding.vectors.items()}


class Writer(NamedTuple):
    """`suffix`: of its files; `write`: an embedding's file, or two for two text encoders."""

    suffix: str
    write: Callable[[Embedding], tuple[bytes, ...]]


WRITERS: dict[str, Writer] = {
    "safetensors": Writer(".safetensors", lambda embedding: (portable(embedding),)),
    "a1111": Writer(".pt", lambda embedding: (a1111(embedding),)),
    "diffusers": Writer(".safetensors", diffusers),
}
"""By the format's name."""


def targets(embedding: Embedding, how: str, target: Path) -> list[Path]:
    """The files that an embedding becomes."""
    two = how == "diffusers" and len(embedding.vectors) > 1
    return [target, second_file(target)] if two else [target]


def save(embedding: Embedding, how: str, target: Path) -> list[Path]:
    """Write an embedding, read it back, and only then put it, in one step, where it belongs. Gives its files.

    Raises TextualInversionError if what was read is not what was written, to the bit; nothing is changed then.
    """
    suffix, write = WRITERS[how]
    paths = targets(embedding, how, target)
    with ExitStack() as written:
        parts = [written.enter_context(files.atomic_write(path)) for path in paths]
        for part, data in zip(parts, write(embedding), strict=True):
            part.write_bytes(data)
        _compare(embedding, parts, suffix)
    return paths


def _compare(embedding: Embedding, parts: Sequence[Path], suffix: str) -> None:
    try:
        found = [data for part in parts for data in _fp32(read_as(part, suffix)).values()]
    except UnusableFile as error:
        raise TextualInversionError(f"what was written cannot be read again, and was removed ({error})") from error
    wanted = _fp32(embedding).values()
    if len(found) != len(wanted) or any(_data(a) != _data(b) for a, b in zip(found, wanted, strict=True)):
        raise TextualInversionError("what was written does not read as it was given, and was removed")
