"""Embedding files, in and out.

Written: `.safetensors` with the one key `emb_params`, which every loader takes; A1111's `.pt`; diffusers' one-key file.
The first is written here byte by byte, with a sorted header and neither date nor path in it, so that the same training
gives the same file; safetensors' own writer orders metadata differently in each process.
Read: these, and what kohya, OneTrainer and the paper's code write for Stable Diffusion 1 and 2.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.embedding.value import Embedding
from lib_ti.errors import UnusableFile
from lib_ti.model import pickles

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
LARGEST = 256 << 20  # bytes; an embedding is a few thousand of them


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
    vectors = {k: v.float() for k, v in embedding.vectors.items()}
    tensors = {"emb_params": next(iter(vectors.values()))} if len(vectors) == 1 else vectors
    return safetensors_bytes(tensors, embedding.metadata)


def a1111(embedding: Embedding) -> bytes:
    """A1111's own `.pt`, in PyTorch's old container, which its unpickler takes from any release."""
    steps = embedding.metadata.get("steps", "")
    record = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": next(iter(embedding.vectors.values())).float().clone()},
        "name": embedding.name,
        "step": int(steps) if steps.isdecimal() and len(steps) < 10 else 0,
        "sd_checkpoint": embedding.metadata.get("checkpoint_sha256", "")[:10] or None,
        "sd_checkpoint_name": embedding.metadata.get("checkpoint_name"),
    }
    buffer = io.BytesIO()
    torch.save(record, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def diffusers(embedding: Embedding) -> bytes:
    """diffusers' one-key file: the token, and its vectors."""
    return safetensors_bytes({embedding.name: next(iter(embedding.vectors.values())).float()}, {"format": "pt"})


WRITERS: dict[str, tuple[str, Callable[[Embedding], bytes]]] = {
    "safetensors": (".safetensors", portable),
    "a1111": (".pt", a1111),
    "diffusers": (".safetensors", diffusers),
}
"""For each format its file suffix and its writer."""


def read(path: Path) -> Embedding:
    """Read an embedding file; its name is the file's stem, as in the WebUIs. Raises UnusableFile."""
    if not path.is_file():
        raise UnusableFile(path, "there is no such file")
    if path.stat().st_size > LARGEST:
        raise UnusableFile(path, "far too large for an embedding")
    if path.suffix.lower() == ".safetensors":
        found, metadata = _read_safetensors(path)
    elif path.suffix.lower() in (".pt", ".bin"):
        found, metadata = _unwrap(pickles.load(path))
    else:
        raise UnusableFile(path, "an embedding ends in .safetensors, .pt or .bin")
    vectors = _vectors(path, found)
    return Embedding(path.stem, vectors, metadata)


def _read_safetensors(path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # the last: a dtype this torch lacks
        raise UnusableFile(path, f"damaged, or not a safetensors file ({str(error).splitlines()[0]})") from error


def _unwrap(found: Any) -> tuple[Any, dict[str, str]]:
    """The tensors of a pickled embedding, and what it says of itself in our terms."""
    if not isinstance(found, dict) or not isinstance(found.get("string_to_param"), dict):
        return found, {}
    told = {"steps": found.get("step"), "checkpoint_name": found.get("sd_checkpoint_name"), "name": found.get("name")}
    plain = {k: str(v) for k, v in told.items() if isinstance(v, str) or (isinstance(v, int) and 0 <= v < 10**9)}
    return found["string_to_param"], plain


def _vectors(path: Path, found: Any) -> dict[str, torch.Tensor]:
    if isinstance(found, torch.Tensor):
        found = {"*": found}
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, dict) else {}
    if tensors.keys() == {"clip_l", "clip_g"}:
        both = {name: _checked(path, tensors[name]) for name in ("clip_l", "clip_g")}
        if len({len(vectors) for vectors in both.values()}) > 1:
            raise UnusableFile(path, "it should hold as many vectors for one text encoder as for the other")
        return both
    if len(tensors) != 1:
        raise UnusableFile(path, f"an embedding holds one set of vectors, but this file holds {len(tensors)}")
    return {"clip_l": _checked(path, next(iter(tensors.values())))}


def _possible(shape: torch.Size) -> bool:
    return 1 <= shape[0] <= 75 and 1 <= shape[1] <= 4096


def _checked(path: Path, tensor: torch.Tensor) -> torch.Tensor:
    vectors = tensor.detach().unsqueeze(0) if tensor.ndim == 1 else tensor.detach()
    if vectors.ndim != 2 or not vectors.is_floating_point() or not _possible(vectors.shape):
        raise UnusableFile(path, f"{tuple(tensor.shape)} {tensor.dtype} is no set of vectors; not an embedding")
    vectors = vectors.float()
    if not torch.isfinite(vectors).all():
        raise UnusableFile(path, "its vectors are not numbers (NaN or infinite); the training that made it failed")
    return vectors
