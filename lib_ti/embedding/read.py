"""Reading embedding files of every program, by whatever a file is: safetensors, PyTorch's pickles, A1111's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from lib_ti.embedding import png
from lib_ti.embedding.key_detection import Choice, Kind, checked, choose
from lib_ti.embedding.naming import well_named
from lib_ti.embedding.value import Embedding
from lib_ti.errors import UnusableFile
from lib_ti.formats import pickle_reader
from lib_ti.formats.safetensors_header import read_header

SECOND_HALF = "which holds the vectors for the second text encoder"
LARGEST = 64 << 20  # bytes of a pickled file, which is read whole; an embedding is a few thousand of them
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
}  # fmt: skip


def read(path: Path, wanted: str | None = None) -> Embedding:
    """Read an embedding file; of several embeddings in one, that called `wanted`. Raises UnusableFile.

    Its name is the file's stem, as in the WebUIs; what comes in a LoRA or in a picture is called what it is called there.
    """
    return read_as(path, path.suffix.lower(), wanted)


def read_as(path: Path, suffix: str, wanted: str | None = None) -> Embedding:
    """Read a file as one that ends in `suffix`, whatever its name."""
    well_named(path, suffix)
    if suffix == ".safetensors":
        return _of_safetensors(path, wanted)
    if suffix in (".pt", ".bin"):
        if path.stat().st_size > LARGEST:
            raise UnusableFile(path, "far too large for an embedding")
        return _of_record(path, pickle_reader.load(path), wanted)
    if suffix in png.SUFFIXES:
        record = png.record_in(path)
        if record is None:
            raise UnusableFile(path, "there is no embedding in this picture")
        embedding = _of_record(path, record, wanted)
        return replace(embedding, name=png.own_name(record) or path.stem)
    raise UnusableFile(path, "an embedding ends in .safetensors, .pt or .bin, or it is A1111's .png or .webp")


def _of_safetensors(path: Path, wanted: str | None) -> Embedding:
    header = read_header(path)
    kinds = {key: Kind(shape, header.dtypes[key]) for key, shape in header.shapes.items()}
    choice = choose(path, kinds, wanted)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in choice.tensors.values()}
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # the last: a dtype this torch lacks
        raise UnusableFile(path, f"damaged, or not a safetensors file ({str(error).splitlines()[0]})") from error
    own = {k: v for k, v in header.metadata.items() if (k, v) != ("format", "pt")}  # which diffusers writes, of torch
    return _embedding(path, choice, tensors, {} if choice.bundled else own)


def _of_record(path: Path, found: Any, wanted: str | None) -> Embedding:
    """Of what was pickled, or lay in a picture: vectors by words, A1111's record of them, or the vectors alone."""
    told: dict[str, str] = {}
    if isinstance(found, dict) and isinstance(found.get("string_to_param"), dict):
        told, found = _told(found), found["string_to_param"]
    elif not isinstance(found, dict):
        found = {"*": found}
    tensors = {key: as_tensor(value) for key, value in found.items() if isinstance(key, str)}
    kept = {key: value for key, value in tensors.items() if value is not None}
    choice = choose(path, {key: kind_of(value) for key, value in kept.items()}, wanted)
    return _embedding(path, choice, kept, told)


def as_tensor(found: Any) -> torch.Tensor | None:
    """A tensor, also from numpy; None for anything else."""
    if isinstance(found, torch.Tensor):
        return found.detach()
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else None


def kind_of(tensor: torch.Tensor) -> Kind:
    """A tensor's shape and format."""
    return Kind(tuple(tensor.shape), _DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")))


def _told(record: Mapping[str, Any]) -> dict[str, str]:
    """What A1111's record says of its embedding, in our terms, and what of ours was kept in it."""
    told = {
        "steps": record.get("step"),
        "checkpoint_hash": record.get("sd_checkpoint"),
        "checkpoint_name": record.get("sd_checkpoint_name"),
        "name": record.get("name"),
    }
    plain = {k: str(v) for k, v in told.items() if isinstance(v, str) or (isinstance(v, int) and 0 <= v < 10**9)}
    ours = record.get("metadata")
    if isinstance(ours, dict) and all(isinstance(text, str) for pair in ours.items() for text in pair):
        return dict(ours)
    return plain


def _embedding(path: Path, choice: Choice, tensors: Mapping[str, torch.Tensor], told: dict[str, str]) -> Embedding:
    vectors = {encoder: _numbers(path, tensors[key]) for encoder, key in choice.tensors.items()}
    if not any(bool(v.any()) for v in vectors.values()):
        raise UnusableFile(path, "all its vectors are zero; it was never trained")
    if choice.name not in ("", path.stem) and not choice.bundled:
        told = told | {"token": choice.name}
    if choice.left_out:
        told = told | {"left_out": ", ".join(choice.left_out)}
    return Embedding(choice.name if choice.bundled else path.stem, vectors, told)


def _numbers(path: Path, tensor: torch.Tensor) -> torch.Tensor:
    """The vectors as (n, width) fp32 of their own, in no file's memory."""
    count, width = checked(path, kind_of(tensor))
    vectors = tensor.reshape(count, width).to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(vectors).all():
        raise UnusableFile(path, "its vectors are not numbers (NaN or infinite); the training that made it failed")
    return vectors


# --- two files for two text encoders -------------------------------------------------------------------------------


def joined(first: Path, second: Path, wanted: str | None = None) -> Embedding:
    """The embedding that diffusers wrote into two files, one for each text encoder. Raises UnusableFile."""
    halves = [read(path, wanted) for path in (first, second)]
    for path, half in zip((first, second), halves, strict=True):
        if len(half.vectors) > 1:
            raise UnusableFile(path, "it holds the vectors for both text encoders already")
    vectors = [next(iter(half.vectors.values())) for half in halves]
    if "clip_g" in halves[0].vectors:
        vectors.reverse()
    if len(vectors[0]) != len(vectors[1]):
        raise UnusableFile(
            second, f"it holds {halves[1].num_vectors} vectors, but {first.name} holds {halves[0].num_vectors}"
        )
    if [v.shape[1] for v in vectors] in ([768, 768], [1280, 1280]):
        raise UnusableFile(second, f"it is for the same text encoder as {first.name}")
    return Embedding(halves[0].name, {"clip_l": vectors[0], "clip_g": vectors[1]}, halves[0].metadata)


def second_file(path: Path) -> Path:
    """Where the second text encoder's vectors lie: learned_embeds_2.bin, learned_embeds_2-steps-500.bin, mug_2.bin."""
    stem, steps, number = path.stem.partition("-steps-")
    return path.with_name(f"{stem}_2{steps}{number}{path.suffix}")


def read_whole(path: Path, wanted: str | None = None) -> tuple[Embedding, Path | None]:
    """The embedding in a file, and the file beside it that was read, too, as it holds the other half. Raises UnusableFile."""
    embedding, other = read(path, wanted), second_file(path)
    if len(embedding.vectors) > 1 or not other.is_file():
        return embedding, None
    try:
        both = joined(path, other, wanted)
        token = read(other, wanted).metadata.get("token", other.stem)
    except UnusableFile:
        return embedding, None  # another embedding, which only happens to be called so
    if token != embedding.metadata.get("token", path.stem):
        return embedding, None
    if both.widths != (768, 1280) and not path.stem.startswith("learned_embeds"):
        return embedding, None
    return both, other


def read_for(path: Path, encoders: int) -> tuple[Embedding, Path | None]:
    """As `read_whole`, for a checkpoint of so many text encoders; of one, the file alone. Raises UnusableFile."""
    return read_whole(path) if encoders > 1 else (read(path), None)
