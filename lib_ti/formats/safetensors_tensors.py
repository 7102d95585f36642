"""Small safetensors files, read and written whole.

The `safetensors` package orders metadata differently in each process; written here, equal contents give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import TensorInfo, header_bytes

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
}  # fmt: skip
"""torch's dtypes as safetensors calls them, as far as embeddings and training states need them."""


_READABLE_DTYPES = _DTYPES | {
    getattr(torch, name): title
    for name, title in (("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2"))
    if hasattr(torch, name)
}
"""Those that are read, too."""


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, reproducible to the byte. Tensors of a dtype that is not in `_DTYPES` raise ValueError."""
    data: list[bytes] = []
    infos: dict[str, TensorInfo] = {}
    offsets: dict[str, tuple[int, int]] = {}
    start = 0
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, which is not written here")
        data.append(tensor_bytes(tensor))
        infos[name] = tensor_info(tensor)
        offsets[name] = start, start + len(data[-1])
        start += len(data[-1])
    return header_bytes(infos, offsets, metadata) + b"".join(data)


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, or all of them, in memory of their own. Raises UnusableFile."""
    try:
        with safe_open(str(path), framework="pt") as file:
            keys = file.keys() if names is None else names
            return {name: file.get_tensor(name).clone() for name in keys}
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # the last: a dtype this torch lacks
        raise UnusableFile(path, f"damaged, or not a safetensors file ({str(error).splitlines()[0]})") from error


def tensor_info(tensor: torch.Tensor) -> TensorInfo:
    """A tensor's shape and dtype; a dtype that safetensors files here do not have goes by torch's name."""
    dtype = _READABLE_DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    return TensorInfo(tuple(tensor.shape), dtype)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's values as they are stored: contiguous, little-endian."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
