"""What an embedding file is, without opening more of it than has to be: a list of hundreds must not take seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.embedding import png
from lib_ti.embedding.key_detection import Choice, Kind, checked, choose
from lib_ti.embedding.naming import well_named
from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_header
from lib_ti.settings.names import EMBEDDING_SUFFIXES

_MADE_FOR = {(768,): "SD 1.x", (1024,): "SD 2.x", (768, 1280): "SDXL", (1280,): "CLIP-G alone, half of SDXL"}


@dataclass(frozen=True)
class Summary:
    """`name`: what a WebUI calls it; `num_vectors`: tokens it takes up in a prompt; `widths_by_encoder`: of its vectors."""

    name: str
    num_vectors: int
    widths_by_encoder: Mapping[str, int]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.widths_by_encoder.values())

    @property
    def made_for(self) -> str:
        """The models it works with, in the users' terms."""
        return made_for(self.widths)


def made_for(widths: Sequence[int]) -> str:
    """The models whose embeddings have such widths, in the users' terms.

    >>> made_for((768, 1280))
    'SDXL'
    """
    return _MADE_FOR.get(tuple(widths), f"models of width {' + '.join(map(str, widths))}")


def summarize(path: Path) -> Summary | None:
    """Look at an embedding file. None for a picture without an embedding.

    Raises UnusableFile for what the WebUIs or we cannot read.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        well_named(path, suffix)
        header = read_header(path)
        kinds = {key: Kind(shape, header.dtypes[key]) for key, shape in header.shapes.items()}
        choice = choose(path, kinds)
        if choice.bundled:
            raise UnusableFile(path, f"this is a LoRA, which brings {choice.name} along wherever it is used")
        return _outline(path, choice, kinds)
    if suffix in png.SUFFIXES:
        return _of_picture(path)
    from lib_ti.embedding import write  # and with it torch

    embedding = write.read(path)
    return Summary(embedding.name, embedding.num_vectors, embedding.widths_by_encoder)


def name_in(path: Path) -> str | None:
    """What a WebUI calls the embedding in a file: as the file, or as a picture says inside. None where there is none.

    Only pictures are looked into: whatever else ends as an embedding's file does has the name, also if it is damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in png.SUFFIXES:
        return path.stem if suffix in EMBEDDING_SUFFIXES else None
    try:
        found = _of_picture(path)
    except UnusableFile:  # which the WebUIs cannot load either
        return None
    return found.name if found else None


def _of_picture(path: Path) -> Summary | None:
    """A picture beside an embedding of its name is its card, and A1111's strips are looked for in no such picture."""
    if png.is_preview(path):
        return None
    card = any(path.with_suffix(suffix).exists() for suffix in EMBEDDING_SUFFIXES)
    record = png.record_in(path, pixels=not card)
    if record is None:
        return None
    vectors: Any = record.get("string_to_param", record)
    tensors: Mapping[str, Any] = vectors if isinstance(vectors, dict) else {}
    kinds = {key: Kind(value.shape, "F64") for key, value in tensors.items() if hasattr(value, "shape")}
    return replace(_outline(path, choose(path, kinds), kinds), name=png.own_name(record) or path.stem)


def _outline(path: Path, choice: Choice, kinds: Mapping[str, Kind]) -> Summary:
    sizes = {encoder: checked(path, kinds[key]) for encoder, key in choice.tensors.items()}
    count = next(iter(sizes.values()))[0]
    return Summary(path.stem, count, {encoder: width for encoder, (_, width) in sizes.items()})
