"""Reading old PyTorch files without running anything in them.

A pickle may call any function of any module. Here it may name PyTorch's own tensor rebuilding functions and a few
harmless containers; classes of foreign packages (Lightning's callbacks in old official checkpoints) become inert stubs;
whatever belongs to Python itself, where the dangerous functions live, is refused.
"""

from __future__ import annotations

import _pickle
import functools
import pickle
import sys
import tarfile
from pathlib import Path
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
    *(f"torch.{dtype}" for dtype in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool")),
}  # fmt: skip
_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "bytes", "bytearray", "complex",
             "slice", "object"}  # fmt: skip
_PYTHONS_AND_OURS = {
    *sys.stdlib_module_names, "__builtin__", "__main__", "posix", "nt", "commands",  # of other systems and of Python 2 too
    "torch", "numpy", "lib_ti", "pip", "setuptools",
}  # fmt: skip


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


class _ParameterDict(dict[str, Any]):
    """What the paper's code keeps an embedding's vectors in, as a plain dict."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state.get("_parameters") or {})

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Unpickler(_pickle.Unpickler):  # not pickle's, which a library in a WebUI's process replaces by one of its own
    """Finds only what is harmless. torch sets `persistent_load` on it, which is where tensors come from."""

    @property
    def persistent_load(self) -> Any:
        return self._resolve

    @persistent_load.setter
    def persistent_load(self, resolve: Any) -> None:
        def resolve_tensors(identity: Any) -> Any:
            if identity[0] in ("module", b"module"):  # in old files a class and its source, which torch would compare
                return identity[1]
            return resolve(identity)

        self._resolve = resolve_tensors
        _pickle.Unpickler.persistent_load.__set__(self, resolve_tensors)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "torch.nn.modules.container.ParameterDict":
            return _ParameterDict
        if full in _ALLOWED and "." not in name:
            found = super().find_class(module, name)
            # a fresh object: a pickle may set attributes on what it was given
            return functools.partial(found) if module == "torch._utils" else found
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return super().find_class("builtins", name)
        if full in ("copyreg._reconstructor", "copy_reg._reconstructor"):
            return functools.partial(_reconstruct)
        package = module.split(".")[0]
        if package == "numpy" and name in ("scalar", "dtype", "_reconstruct", "ndarray"):
            return type(name, (_Stub,), {})  # metrics that a trainer stored: nothing a model needs
        if package in _PYTHONS_AND_OURS:
            raise _Refused(f"it would call {full}")
        return type(name.rpartition(".")[2] or "Stub", (_Stub,), {})


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    """What copyreg does for classes of old pickles, for stubs and plain containers only."""
    return cls() if isinstance(cls, type) and issubclass(cls, _Stub) else base(state)


class _Restricted:
    """What torch.load takes for the pickle module."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def load(path: Path) -> Any:
    """The object in a PyTorch file, its tensors on the CPU and memory-mapped where the format allows.

    Raises UnusableFile, also for a file that would run code.
    """
    try:
        options: dict[str, Any] = {}
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:  # asked of torch's own reader, which takes archives for whole that Python's does not
            if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
                raise _Refused("it is a TorchScript program")
            options["mmap"] = True
        elif tarfile.is_tarfile(path):  # torch would unpack it
            raise UnusableFile(path, "a tar archive, not a PyTorch file of the last years")
        # not torch.load, which WebUIs replace in their process: Forge's renames whatever it cannot read
        return torch.serialization.load(str(path), map_location="cpu", pickle_module=_Restricted, weights_only=False, **options)
    except UnusableFile:
        raise
    except _Refused as error:
        raise UnusableFile(path, f"this file contains code ({error}); it was not opened") from error
    except Exception as error:  # any damage whatever surfaces in the parser as any error whatever
        raise UnusableFile(path, f"damaged, or not a PyTorch file ({type(error).__name__})") from error
