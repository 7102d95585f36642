"""The tensors of a file, by name, read one at a time: nothing is in memory before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.errors import UnusableFile
from lib_ti.files import read_header
from lib_ti.formats import pickle_reader

Shape = tuple[int, ...]

QUANTISED = {"F8_E4M3", "F8_E5M2", "I8", "U8", "F4"}


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a file: under `name`, or as one of `of` equal parts of what stands there, or transposed."""

    name: str
    part: int = 0
    of: int = 1
    transposed: bool = False

    def shape(self, whole: Shape) -> Shape:
        rows = (whole[0] // self.of, *whole[1:]) if self.of > 1 and whole else whole
        return rows[::-1] if self.transposed else rows

    def tensor(self, whole: torch.Tensor) -> torch.Tensor:
        rows = whole.chunk(self.of)[self.part] if self.of > 1 else whole
        return rows.T if self.transposed else rows


@dataclass(frozen=True)
class Weights:
    """Names and shapes of a file's tensors, and a way to read each. Reading goes through a memory map."""

    path: Path
    shapes: Mapping[str, Shape]
    read: Callable[[str], torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantised: bool = False

    def renamed(self, names: Mapping[str, str | Place]) -> Weights:
        """The same tensors under other names: `names` maps each new name to the one in the file, or to its place there."""
        places = {new: Place(old) if isinstance(old, str) else old for new, old in names.items()}
        shapes = {new: place.shape(self.shapes[place.name]) for new, place in places.items()}

        def read(new: str) -> torch.Tensor:
            return places[new].tensor(self.read(places[new].name))

        return Weights(self.path, shapes, read, self.metadata, self.quantised)

    def has(self, prefix: str) -> bool:
        """Whether any name begins with `prefix`."""
        return any(name.startswith(prefix) for name in self.shapes)


def open_weights(path: Path) -> Weights:
    """The weights in a `.safetensors` file or a PyTorch pickle. Raises UnusableFile."""
    magic = read_header(path)
    if magic[:4] == b"GGUF":
        raise UnusableFile(path, "gguf files are quantised; use the original .safetensors checkpoint")
    # a safetensors file starts with its header's length, whose bytes may be any, then the header, which is JSON
    if magic[8:9] != b"{" and (magic[:2] == b"PK" or magic[:1] == b"\x80"):
        return _from_pickle(path)
    return _from_safetensors(path)


def _from_safetensors(path: Path) -> Weights:
    try:
        file: Any = safe_open(str(path), framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        quantised = any(len(shapes[name]) >= 2 and part.get_dtype() in QUANTISED for name, part in slices.items())
    except (SafetensorError, OSError, ValueError) as error:
        raise UnusableFile(path, _damage(path, str(error))) from error
    return Weights(path, shapes, file.get_tensor, file.metadata() or {}, quantised)


def _damage(path: Path, error: str) -> str:
    if "incomplete" in error.lower() or "not fully covered" in error.lower():
        return "the file is truncated; download it again"
    return f"damaged, or not a safetensors file ({error.splitlines()[0]})"


def _from_pickle(path: Path) -> Weights:
    found = pickle_reader.load(path)
    if isinstance(found, dict) and isinstance(inner := found.get("state_dict", found.get("model")), dict):
        found = inner
    if not isinstance(found, dict):
        raise UnusableFile(path, "it holds no weights")
    tensors = {
        name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise UnusableFile(path, "it holds no weights")
    quantised = any(t.ndim >= 2 and not t.is_floating_point() and "ids" not in name for name, t in tensors.items())
    return Weights(path, {name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__, {}, quantised)
