"""Reads embedding files of any program: safetensors, PyTorch pickles, and A1111's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_ti.embedding import png
from lib_ti.embedding.file_type import IMAGE_SUFFIXES, PICKLE_SUFFIXES, check_suffix, suffix_by_content
from lib_ti.embedding.key_detection import DetectedKeys, check_vectors, detect_keys
from lib_ti.embedding.value import Embedding
from lib_ti.errors import UnusableFile
from lib_ti.formats import pickle_reader
from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.formats.safetensors_tensors import read_tensors, tensor_info
from lib_ti.model.checkpoint.families import SDXL

SECOND_FILE_NOTE = "which holds the vectors for the second text encoder"
MAX_PICKLE_BYTES = 64 << 20  # of a file that is read whole; an embedding takes a few thousand


def read_embedding(path: Path, name: str | None = None) -> Embedding:
    """Read an embedding file; `name` selects one of several embeddings in it. Raises UnusableFile.

    The embedding is called as the file's stem, as in the WebUIs; one in a LoRA or an image as it is called there.
    """
    return read_embedding_as(path, suffix_by_content(path, path.suffix.lower()), name)


def read_embedding_as(path: Path, suffix: str, name: str | None = None) -> Embedding:
    """Read a file as one with that suffix, whatever its own. Raises UnusableFile."""
    check_suffix(path, suffix)
    if suffix == ".safetensors":
        return _read_safetensors(path, name)
    if suffix in PICKLE_SUFFIXES:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise UnusableFile(path, "far too large for an embedding")
        return _from_record(path, pickle_reader.load(path), name)
    if suffix in IMAGE_SUFFIXES:
        record = png.read_record(path)
        if record is None:
            raise UnusableFile(path, "there is no embedding in this picture")
        embedding = _from_record(path, record, name)
        return replace(embedding, name=png.stored_name(record) or path.stem)
    raise UnusableFile(path, "an embedding ends in .safetensors, .pt or .bin, or it is A1111's .png or .webp")


def _read_safetensors(path: Path, name: str | None) -> Embedding:
    header = read_safetensors_header(path)
    detected = detect_keys(path, header.tensors, name)
    tensors = read_tensors(path, detected.keys.values())
    metadata = {k: v for k, v in header.metadata.items() if (k, v) != ("format", "pt")}  # diffusers' mark of torch
    return _build(path, detected, tensors, {} if detected.in_lora else metadata)


def _from_record(path: Path, record: Any, name: str | None) -> Embedding:
    """The embedding in an unpickled object or an image's record: A1111's dictionary, tensors by token, or one tensor."""
    metadata: dict[str, str] = {}
    if isinstance(record, dict) and isinstance(record.get("string_to_param"), dict):
        metadata, record = _a1111_metadata(record), record["string_to_param"]
    elif not isinstance(record, dict):
        record = {"*": record}
    values = {key: _as_tensor(value) for key, value in record.items() if isinstance(key, str)}
    tensors = {key: tensor for key, tensor in values.items() if tensor is not None}
    detected = detect_keys(path, {key: tensor_info(tensor) for key, tensor in tensors.items()}, name)
    return _build(path, detected, tensors, metadata)


def _as_tensor(value: Any) -> torch.Tensor | None:
    """The tensor in a tensor or a numpy array; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else None


def _a1111_metadata(record: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that this program added to A1111's record, or else what A1111's own entries say, under the keys used here."""
    added = record.get("metadata")
    if isinstance(added, dict) and all(isinstance(text, str) for pair in added.items() for text in pair):
        return dict(added)
    entries = {
        "steps": record.get("step"),
        "checkpoint_hash": record.get("sd_checkpoint"),
        "checkpoint_name": record.get("sd_checkpoint_name"),
        "name": record.get("name"),
    }
    return {k: str(v) for k, v in entries.items() if isinstance(v, str) or (isinstance(v, int) and 0 <= v < 10**9)}


def _build(
    path: Path, detected: DetectedKeys, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]
) -> Embedding:
    vectors = {encoder: _to_vectors(path, tensors[key]) for encoder, key in detected.keys.items()}
    if not any(bool(v.any()) for v in vectors.values()):
        raise UnusableFile(path, "all its vectors are zero; it was never trained")
    if detected.name not in ("", path.stem) and not detected.in_lora:
        metadata = metadata | {"token": detected.name}
    if detected.ignored:
        metadata = metadata | {"left_out": ", ".join(detected.ignored)}
    return Embedding(detected.name if detected.in_lora else path.stem, vectors, metadata)


def _to_vectors(path: Path, tensor: torch.Tensor) -> torch.Tensor:
    """The vectors (n, width) in fp32, copied, so that no file stays mapped. Raises UnusableFile for NaN and infinity."""
    num_vectors, width = check_vectors(path, tensor_info(tensor))
    vectors = tensor.reshape(num_vectors, width).to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(vectors).all():
        raise UnusableFile(path, "its vectors are not numbers (NaN or infinite); the training that made it failed")
    return vectors


# --- one file per text encoder -------------------------------------------------------------------------------------


def join_encoder_files(first: Path, second: Path, name: str | None = None) -> Embedding:
    """The SDXL embedding that diffusers wrote into two files, one per text encoder, in either order. Raises UnusableFile."""
    halves = [read_embedding(path, name) for path in (first, second)]
    for path, half in zip((first, second), halves, strict=True):
        if len(half.vectors) > 1:
            raise UnusableFile(path, "it holds the vectors for both text encoders already")
    clip_l, clip_g = (encoder.name for encoder in SDXL.encoders)
    vectors = [next(iter(half.vectors.values())) for half in halves]
    if clip_g in halves[0].vectors:
        vectors.reverse()
    if len(vectors[0]) != len(vectors[1]):
        raise UnusableFile(
            second, f"it holds {halves[1].num_vectors} vectors, but {first.name} holds {halves[0].num_vectors}"
        )
    if vectors[0].shape[1] == vectors[1].shape[1] and vectors[0].shape[1] in SDXL.widths:
        raise UnusableFile(second, f"it is for the same text encoder as {first.name}")
    return Embedding(halves[0].name, {clip_l: vectors[0], clip_g: vectors[1]}, halves[0].metadata)


def second_file_path(path: Path) -> Path:
    """Where diffusers puts the second encoder's vectors: learned_embeds_2.bin, learned_embeds_2-steps-500.bin, mug_2.bin."""
    stem, steps, number = path.stem.partition("-steps-")
    return path.with_name(f"{stem}_2{steps}{number}{path.suffix}")


def read_with_second_file(path: Path, name: str | None = None) -> tuple[Embedding, Path | None]:
    """Read an embedding, with the other encoder's vectors if they are in a file beside it; gives that path, too.

    Raises UnusableFile.
    """
    embedding, second = read_embedding(path, name), second_file_path(path)
    if len(embedding.vectors) > 1 or not second.is_file():
        return embedding, None
    try:
        joined = join_encoder_files(path, second, name)
        second_token = read_embedding(second, name).metadata.get("token", second.stem)
    except UnusableFile:
        return embedding, None  # an unrelated embedding whose name happens to end in _2
    if second_token != embedding.metadata.get("token", path.stem):
        return embedding, None
    if joined.widths != SDXL.widths and not path.stem.startswith("learned_embeds"):
        return embedding, None
    return joined, second


def read_for_encoders(path: Path, num_encoders: int) -> tuple[Embedding, Path | None]:
    """Read an embedding for a checkpoint with that many text encoders: the second file only counts where there are two.

    Raises UnusableFile.
    """
    return read_with_second_file(path) if num_encoders > 1 else (read_embedding(path), None)
