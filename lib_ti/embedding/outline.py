"""What an embedding file is, without opening more of it than has to be: a list of hundreds must not take seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.model.header import Shape, read_header

SUFFIXES = (".safetensors", ".pt", ".bin")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_MADE_FOR = {(768,): "SD 1.x", (1024,): "SD 2.x", (768, 1280): "SDXL", (1280,): "the SDXL refiner"}


@dataclass(frozen=True)
class Outline:
    """`count`: tokens it takes up in a prompt; `widths`: of its vectors, for each text encoder."""

    count: int
    widths: tuple[int, ...]

    @property
    def made_for(self) -> str:
        """The models it works with, in the users' terms."""
        return _MADE_FOR.get(self.widths, f"models of width {' + '.join(map(str, self.widths))}")


def outline(path: Path) -> Outline:
    """Look at an embedding file. Raises UnusableFile for what the WebUIs and we cannot read."""
    if path.suffix.lower() == ".safetensors":
        return _of_safetensors(path)
    from lib_ti.embedding import formats  # and with it torch

    embedding = formats.read(path)
    return Outline(embedding.count, embedding.widths)


def _of_safetensors(path: Path) -> Outline:
    header = read_header(path)
    if header.shapes.keys() == {"clip_l", "clip_g"}:
        names = ["clip_l", "clip_g"]
    elif len(header.shapes) == 1:
        names = list(header.shapes)
    else:
        raise UnusableFile(
            path, f"an embedding holds one set of vectors, but this file holds {len(header.shapes) or 'none'}"
        )
    shapes = [_checked(path, header.shapes[name], header.dtypes[name]) for name in names]
    if len({shape[0] for shape in shapes}) > 1:
        raise UnusableFile(path, "it should hold as many vectors for one text encoder as for the other")
    return Outline(shapes[0][0], tuple(shape[1] for shape in shapes))


def _checked(path: Path, shape: Shape, dtype: str) -> Shape:
    whole = (1, *shape) if len(shape) == 1 else shape
    if len(whole) != 2 or dtype not in _FLOATS or not (1 <= whole[0] <= 75 and 1 <= whole[1] <= 4096):
        raise UnusableFile(path, f"{tuple(shape)} {dtype} is no set of vectors; not an embedding")
    return whole
