"""How wide an embedding's vectors must be for a checkpoint, without torch and mostly from headers: quick enough for a form.

The widths are one per text encoder: (768,) for Stable Diffusion 1, (768, 1280) for SDXL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.hf_cache import resolve_snapshot
from lib_ti.formats.key_prefix import without_prefix
from lib_ti.formats.safetensors_header import Shape, read_safetensors_header
from lib_ti.formats.text_file import read_text

_TOKEN_TABLES = (
    ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
     "conditioner.embedders.1.model.token_embedding.weight"),
    ("conditioner.embedders.0.model.token_embedding.weight",),
    ("cond_stage_model.model.token_embedding.weight",),
    ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",),
    ("cond_stage_model.transformer.embeddings.token_embedding.weight",),
)  # fmt: skip
"""The token embeddings' names in SDXL, its refiner, and Stable Diffusion 2 and 1 in the original layout."""


def embedding_widths(path: Path) -> tuple[int, ...] | None:
    """The widths for a checkpoint file or a diffusers folder.

    None if they are unknown: for other models, and for files that would have to be read whole.
    """
    try:
        path = resolve_snapshot(path)
        if path.is_dir():
            return widths_from_folder(path)
        return widths_from_shapes(_shapes(path))
    except (UnusableFile, OSError):
        return None


def widths_from_shapes(shapes: Mapping[str, Shape]) -> tuple[int, ...] | None:
    """The widths for a checkpoint file with tensors of these names and shapes."""
    names = [name for tables in _TOKEN_TABLES for name in tables]
    if not any(name in shapes for name in names):
        shapes = without_prefix(shapes, names)
    for tables in _TOKEN_TABLES:
        if all(len(shapes.get(name, ())) == 2 for name in tables):
            return tuple(shapes[name][1] for name in tables)
    return None


def widths_from_folder(path: Path) -> tuple[int, ...] | None:
    """The widths for a diffusers folder."""
    widths = []
    for encoder in ("text_encoder", "text_encoder_2"):
        config = path / encoder / "config.json"
        if config.is_file():
            try:
                widths.append(int(json.loads(read_text(config).text)["hidden_size"]))
            except (UnusableFile, ValueError, KeyError, TypeError, RecursionError):
                return None
    return tuple(widths) or None


def _shapes(path: Path) -> Mapping[str, Shape]:
    with path.open("rb") as file:
        magic = file.read(9)
    if magic[8:9] == b"{":
        return read_safetensors_header(path).shapes
    if magic[:2] != b"PK":  # PyTorch's old container has no index: it would have to be read whole
        return {}
    from lib_ti.formats.weights import open_weights  # and with it torch

    return open_weights(path).shapes
