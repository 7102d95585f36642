"""The tensors of a checkpoint file, by name, each read through a memory map when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.errors import UnusableFile
from lib_ti.formats import pickle_reader
from lib_ti.formats.file_kind import PICKLE, SAFETENSORS, file_kind, refusal
from lib_ti.formats.key_prefix import without_prefix
from lib_ti.formats.safetensors_header import Shape, read_safetensors_header

QUANTISED_DTYPES = {"F8_E4M3", "F8_E5M2", "I8", "U8", "F4"}


@dataclass(frozen=True)
class TensorSource:
    """Where a parameter is stored: as the tensor `name`, or as one of its `num_chunks` equal chunks, or transposed."""

    name: str
    chunk: int = 0
    num_chunks: int = 1
    transposed: bool = False

    def shape_of(self, stored: Shape) -> Shape:
        """The parameter's shape, from that of the stored tensor."""
        shape = (stored[0] // self.num_chunks, *stored[1:]) if self.num_chunks > 1 and stored else stored
        return shape[::-1] if self.transposed else shape

    def extract(self, stored: torch.Tensor) -> torch.Tensor:
        """The parameter, from the stored tensor."""
        tensor = stored.chunk(self.num_chunks)[self.chunk] if self.num_chunks > 1 else stored
        return tensor.T if self.transposed else tensor


@dataclass(frozen=True)
class Weights:
    """A file's tensors: their shapes by name, and `read`, which gives the tensor of a name.

    `quantised`: some matrix has a dtype of `QUANTISED_DTYPES`, or one of integers.
    """

    path: Path
    shapes: Mapping[str, Shape]
    read: Callable[[str], torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantised: bool = False

    def renamed(self, sources: Mapping[str, str | TensorSource]) -> Weights:
        """The same tensors under other names: for each new name the one in the file, or the source there."""
        by_name = {new: TensorSource(old) if isinstance(old, str) else old for new, old in sources.items()}
        shapes = {new: source.shape_of(self.shapes[source.name]) for new, source in by_name.items()}

        def read(new: str) -> torch.Tensor:
            return by_name[new].extract(self.read(by_name[new].name))

        return Weights(self.path, shapes, read, self.metadata, self.quantised)

    def without_extra_prefix(self, known: Iterable[str]) -> Weights:
        """The same tensors without the prefix that all of them carry in front of one of the `known` names, if they do."""
        names = without_prefix({name: name for name in self.shapes}, known)
        return self if all(new == old for new, old in names.items()) else self.renamed(names)

    def has_prefix(self, prefix: str) -> bool:
        """Whether any tensor's name begins with `prefix`."""
        return any(name.startswith(prefix) for name in self.shapes)


def open_weights(path: Path) -> Weights:
    """The weights in a `.safetensors` file or a PyTorch pickle. Raises UnusableFile."""
    kind = file_kind(path)
    if kind is PICKLE:
        return _open_pickle(path)
    if kind is None or kind is SAFETENSORS:
        return _open_safetensors(path)
    raise UnusableFile(path, refusal(kind, "a checkpoint"))


def _open_safetensors(path: Path) -> Weights:
    header = read_safetensors_header(path)
    try:
        file: Any = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise UnusableFile(path, f"damaged, or not a safetensors file ({str(error).splitlines()[0]})") from error
    quantised = any(len(info.shape) >= 2 and info.dtype in QUANTISED_DTYPES for info in header.tensors.values())
    return Weights(path, header.shapes, file.get_tensor, header.metadata, quantised)


def _open_pickle(path: Path) -> Weights:
    content = pickle_reader.load(path)
    if isinstance(content, dict) and isinstance(inner := content.get("state_dict", content.get("model")), dict):
        content = inner
    if not isinstance(content, dict):
        raise UnusableFile(path, "it holds no weights")
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise UnusableFile(path, "it holds no weights")
    quantised = any(t.ndim >= 2 and _is_quantised(t.dtype) and "ids" not in name for name, t in tensors.items())
    return Weights(path, {name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__, {}, quantised)


def _is_quantised(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point or str(dtype).removeprefix("torch.").startswith("float8")
