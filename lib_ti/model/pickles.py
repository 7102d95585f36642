"""Reading old PyTorch files without running anything in them.

A pickle may call any function of any module. Here it may name PyTorch's own tensor rebuilding functions and a few
harmless containers; classes of foreign packages (Lightning's callbacks in old official checkpoints) become inert stubs;
whatever belongs to Python itself, where the dangerous functions live, is refused.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lib_ti.errors import UnusableFile

_ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "_codecs.encode",
    *(f"torch.{kind}Storage" for kind in
      ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")),
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    *(f"torch.{dtype}" for dtype in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool")),
}  # fmt: skip
_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "bytes", "bytearray", "complex",
             "slice", "object"}  # fmt: skip
_OURS_AND_PYTHONS = {"torch", "numpy", "lib_ti", "pip", "setuptools", *sys.stdlib_module_names}


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that could run code."""


class _Stub:
    """Stands for an object of a class that is not at hand; takes any construction and any state, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def __hash__(self) -> int:
        return id(self)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return super().find_class(module, name)
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return super().find_class("builtins", name)
        if full == "copyreg._reconstructor" or full == "copy_reg._reconstructor":
            return _reconstruct
        if module.split(".")[0] in ("numpy",) and name in ("scalar", "dtype", "_reconstruct", "ndarray"):
            return type(name, (_Stub,), {})  # metrics that a trainer stored: nothing a model needs
        if module.split(".")[0] in _OURS_AND_PYTHONS or module in (
            "__builtin__",
            "__main__",
            "posix",
            "nt",
            "commands",
        ):
            raise _Refused(f"it would call {full}")
        return type(name.rpartition(".")[2] or "Stub", (_Stub,), {})


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    """What copyreg does for classes of old pickles, for stubs and plain containers only."""
    return cls() if isinstance(cls, type) and issubclass(cls, _Stub) else base(state)


_RESTRICTED: Any = SimpleNamespace(
    Unpickler=_Unpickler,
    load=lambda file, **options: _Unpickler(file, **options).load(),
    loads=lambda data, **options: _Unpickler(io.BytesIO(data), **options).load(),
)


def load(path: Path) -> Any:
    """The object in a PyTorch file, its tensors on the CPU and memory-mapped where the format allows.

    Raises UnusableFile, also for a file that would run code.
    """
    try:
        options: dict[str, Any] = {"mmap": True} if zipfile.is_zipfile(path) else {}
        return torch.load(str(path), map_location="cpu", pickle_module=_RESTRICTED, weights_only=False, **options)
    except _Refused as error:
        raise UnusableFile(path, f"this file contains code ({error}); it was not opened") from error
    except Exception as error:  # any damage whatever surfaces in the parser as any error whatever
        raise UnusableFile(path, f"damaged, or not a PyTorch file ({type(error).__name__})") from error
