"""Writes embedding files. docs/formats.md says which program reads which format.

The formats are `.safetensors` with the one key `emb_params`, or `clip_l` and `clip_g` for SDXL, which every WebUI reads; A1111's
`.pt`; and diffusers' file, or its two for SDXL. Safetensors files contain neither date nor path, so that the same training
gives the same file. Every file is read back before it gets its name.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load

from lib_ti import files
from lib_ti.embedding.read import read_embedding_as, second_file_path
from lib_ti.embedding.value import Embedding
from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.formats.safetensors_tensors import safetensors_bytes, tensor_bytes


def to_safetensors(embedding: Embedding) -> bytes:
    """The `.safetensors` that every loader reads: `emb_params`, or `clip_l` and `clip_g` for two text encoders."""
    vectors = _to_fp32(embedding)
    tensors = {"emb_params": next(iter(vectors.values()))} if len(vectors) == 1 else vectors
    content = safetensors_bytes(tensors, embedding.metadata)
    loaded = {key: tensor_bytes(tensor) for key, tensor in load(content).items()}
    if loaded != {key: tensor_bytes(tensor) for key, tensor in tensors.items()}:
        raise TextualInversionError("the embedding does not read as it was written; nothing was saved")
    return content


def to_a1111(embedding: Embedding) -> bytes:
    """A1111's `.pt`, in PyTorch's old container: its unpickler refuses zip archives of newer releases.

    For SDXL it holds nothing but the vectors: A1111 takes every value of that dictionary for a tensor.
    """
    vectors, metadata = _to_fp32(embedding), embedding.metadata
    record: dict[str, Any] = dict(vectors)
    if len(vectors) == 1:
        steps = metadata.get("steps", "")
        record = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": next(iter(vectors.values()))},
            "name": embedding.name,
            "step": int(steps) if steps.isdecimal() and len(steps) < 10 else 0,
            "sd_checkpoint": metadata.get("checkpoint_hash") or metadata.get("checkpoint_sha256", "")[:10] or None,
            "sd_checkpoint_name": metadata.get("checkpoint_name"),
        }
        record["metadata"] = dict(sorted(metadata.items()))  # an addition, which other programs ignore
    buffer = io.BytesIO()
    torch.save(record, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def to_diffusers(embedding: Embedding) -> tuple[bytes, ...]:
    """diffusers' file, whose one key is the token; for SDXL one such file for each text encoder."""
    metadata = {k: v for k, v in embedding.metadata.items() if k != "token"} | {"format": "pt"}
    return tuple(safetensors_bytes({embedding.name: vectors}, metadata) for vectors in _to_fp32(embedding).values())


def _to_fp32(embedding: Embedding) -> dict[str, torch.Tensor]:
    return {encoder: vectors.detach().float().cpu().clone() for encoder, vectors in embedding.vectors.items()}


class EmbeddingFormat(NamedTuple):
    """`suffix`: of its files; `encode`: an embedding to the content of its file, or of its two."""

    suffix: str
    encode: Callable[[Embedding], tuple[bytes, ...]]


FORMATS: dict[str, EmbeddingFormat] = {
    "safetensors": EmbeddingFormat(".safetensors", lambda embedding: (to_safetensors(embedding),)),
    "a1111": EmbeddingFormat(".pt", lambda embedding: (to_a1111(embedding),)),
    "diffusers": EmbeddingFormat(".safetensors", to_diffusers),
}
"""By name."""


def output_paths(embedding: Embedding, format_name: str, path: Path) -> list[Path]:
    """The files that `save_embedding` writes."""
    two_files = format_name == "diffusers" and len(embedding.vectors) > 1
    return [path, second_file_path(path)] if two_files else [path]


def save_embedding(embedding: Embedding, format_name: str, path: Path) -> list[Path]:
    """Write an embedding, read it back, and only then rename the files to their paths, which are returned.

    Raises TextualInversionError, and changes nothing, if what is read differs in any bit from what was written.
    """
    suffix, encode = FORMATS[format_name]
    paths = output_paths(embedding, format_name, path)
    with ExitStack() as renamed_at_exit:
        parts = [renamed_at_exit.enter_context(files.atomic_write(path)) for path in paths]
        for part, content in zip(parts, encode(embedding), strict=True):
            part.write_bytes(content)
        _verify(embedding, parts, suffix)
    return paths


def _verify(embedding: Embedding, parts: Sequence[Path], suffix: str) -> None:
    try:
        read = [vectors for part in parts for vectors in _to_fp32(read_embedding_as(part, suffix)).values()]
    except UnusableFile as error:
        raise TextualInversionError(f"what was written cannot be read again, and was removed ({error})") from error
    written = list(_to_fp32(embedding).values())
    if list(map(tensor_bytes, read)) != list(map(tensor_bytes, written)):
        raise TextualInversionError("what was written does not read as it was given, and was removed")
