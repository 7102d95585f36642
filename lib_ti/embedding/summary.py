"""What an embedding file holds, read from its header where possible: listing hundreds of files must not take seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.embedding import png
from lib_ti.embedding.file_type import IMAGE_SUFFIXES, check_suffix
from lib_ti.embedding.key_detection import DetectedKeys, check_vectors, detect_keys
from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import TensorInfo, read_safetensors_header
from lib_ti.settings.names import EMBEDDING_SUFFIXES

_BASE_MODELS = {(768,): "SD 1.x", (1024,): "SD 2.x", (768, 1280): "SDXL", (1280,): "CLIP-G alone, half of SDXL"}


@dataclass(frozen=True)
class Summary:
    """`name`: what a WebUI calls it; `num_vectors`: tokens in a prompt; `widths_by_encoder`: of its vectors."""

    name: str
    num_vectors: int
    widths_by_encoder: Mapping[str, int]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.widths_by_encoder.values())

    @property
    def base_model(self) -> str:
        """The models it is made for, in the users' terms."""
        return base_model(self.widths)


def base_model(widths: Sequence[int]) -> str:
    """The models that embeddings with vectors of these widths are made for, in the users' terms.

    >>> base_model((768, 1280))
    'SDXL'
    """
    return _BASE_MODELS.get(tuple(widths), f"models of width {' + '.join(map(str, widths))}")


def summarize(path: Path) -> Summary | None:
    """The summary of an embedding file; None for an image without an embedding.

    Raises UnusableFile for files that the WebUIs or this program cannot read.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        check_suffix(path, suffix)
    if suffix == ".safetensors":
        tensors = read_safetensors_header(path).tensors
        detected = detect_keys(path, tensors)
        if detected.in_lora:
            raise UnusableFile(path, f"this is a LoRA, which brings {detected.name} along wherever it is used")
        return _summary(path, detected, tensors)
    if suffix in IMAGE_SUFFIXES:
        return _summarize_image(path)
    from lib_ti.embedding.read import read_embedding  # and with it torch

    embedding = read_embedding(path)
    return Summary(embedding.name, embedding.num_vectors, embedding.widths_by_encoder)


def embedding_name(path: Path) -> str | None:
    """The name a WebUI gives the embedding in a file: the file's stem, or the name inside an image. None if there is none.

    Only images are opened: any other file with an embedding's suffix counts, even a damaged one.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        return path.stem if suffix in EMBEDDING_SUFFIXES else None
    try:
        summary = _summarize_image(path)
    except UnusableFile:  # the WebUIs cannot load it either
        return None
    return summary.name if summary else None


def _summarize_image(path: Path) -> Summary | None:
    """An image beside an embedding of its name is that one's card; A1111 does not look for an embedding in its pixels."""
    if png.is_preview(path):
        return None
    is_card = any(path.with_suffix(suffix).exists() for suffix in EMBEDDING_SUFFIXES)
    record = png.read_record(path, decode_pixels=not is_card)
    if record is None:
        return None
    param: Any = record.get("string_to_param", record)
    arrays: Mapping[str, Any] = param if isinstance(param, dict) else {}
    tensors = {key: TensorInfo(array.shape, "F64") for key, array in arrays.items() if hasattr(array, "shape")}
    summary = _summary(path, detect_keys(path, tensors), tensors)
    return replace(summary, name=png.stored_name(record) or path.stem)


def _summary(path: Path, detected: DetectedKeys, tensors: Mapping[str, TensorInfo]) -> Summary:
    sizes = {encoder: check_vectors(path, tensors[key]) for encoder, key in detected.keys.items()}
    num_vectors = next(iter(sizes.values()))[0]
    return Summary(path.stem, num_vectors, {encoder: width for encoder, (_, width) in sizes.items()})
