"""Reading old PyTorch files without running anything in them.

A pickle may call any function of any module. Here it may name PyTorch's own tensor rebuilding functions and a few
harmless containers; classes of foreign packages (Lightning's callbacks in old official checkpoints) become inert stubs;
whatever belongs to Python itself, where the dangerous functions live, is refused.
"""

from __future__ import annotations

import _pickle
import builtins
import functools
import pickle
import sys
import tarfile
import zipfile
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
    *(f"torch.{dtype}" for dtype in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool")),
}  # fmt: skip
_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "complex", "slice",
             "object"}  # fmt: skip
_PYTHONS_AND_OURS = {
    *sys.stdlib_module_names, "__builtin__", "__main__", "posix", "nt", "commands",  # of other systems and of Python 2 too
    "torch", "numpy", "lib_ti", "pip", "setuptools",
}  # fmt: skip
_AMBIGUOUS = "damaged, or not a PyTorch file (where its contents end is not clear)"
_LARGEST_PICKLE = 256 << 20  # bytes, of an archive's part that is read whole; a checkpoint's is a few million
_LARGEST_INFLATED = 64 << 20  # bytes, of all parts of an archive that is compressed, as torch never writes it


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
            if name.startswith("_rebuild_tensor"):
                return functools.partial(_tensor, found)
            return functools.partial(found) if module == "torch._utils" else found
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return super().find_class("builtins", name)
        if module in ("builtins", "__builtin__") and name in ("bytes", "bytearray"):
            return functools.partial(_bytes, getattr(builtins, name))
        if full == "_codecs.encode":
            return functools.partial(_encode)
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


def _tensor(build: Any, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    """A tensor within its storage, which torch would otherwise enlarge by whatever lies in the memory."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last >= storage._untyped_storage.nbytes() // storage.dtype.itemsize:
        raise ValueError("a tensor is larger than its data")
    return build(storage, offset, size, stride, *rest)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 2's bytes are written; other encodings may take for ever."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it would encode text as {encoding}")
    return text.encode(encoding)


def _bytes(kind: Any, *content: Any) -> Any:
    """Bytes of a given content; of a number, they would be as many zeros as it says."""
    if any(isinstance(part, int) for part in content):
        raise _Refused("it would fill the memory")
    return kind(*content)


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
        if zipped:
            parts = _checked_parts(path)
            records = torch._C.PyTorchFileReader(str(path)).get_all_records()
            if "constants.pkl" in records:
                raise _Refused("it is a TorchScript program")
            if sorted(records) != sorted(part.filename.partition("/")[2] for part in parts):
                raise UnusableFile(path, _AMBIGUOUS)
            options["mmap"] = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        elif tarfile.is_tarfile(path):  # torch would unpack it
            raise UnusableFile(path, "a tar archive, not a PyTorch file of the last years")
        # not torch.load, which WebUIs replace in their process: Forge's renames whatever it cannot read
        return torch.serialization.load(
            str(path), map_location="cpu", pickle_module=_Restricted, weights_only=False, **options
        )
    except UnusableFile:
        raise
    except _Refused as error:
        raise UnusableFile(path, f"this file contains code ({error}); it was not opened") from error
    except Exception as error:  # any damage whatever surfaces in the parser as any error whatever
        raise UnusableFile(path, f"damaged, or not a PyTorch file ({type(error).__name__})") from error


def _checked_parts(path: Path) -> list[zipfile.ZipInfo]:
    """The parts of an archive. Raises UnusableFile for one that would become too large in memory.

    torch's reader, which believes whatever size an archive gives, must find the same contents as Python's does here: so
    the archive's end is the file's, and no comment hides another.
    """
    with path.open("rb") as file:
        file.seek(-22, 2)
        end = file.read()
    if end[:4] != b"PK\5\6" or end[-2:] != bytes(2):
        raise UnusableFile(path, _AMBIGUOUS)
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    size = sum(part.file_size for part in parts)
    pickled = max((part.file_size for part in parts if part.filename.endswith(".pkl")), default=0)
    if pickled > _LARGEST_PICKLE or size > (path.stat().st_size if stored else _LARGEST_INFLATED):
        raise UnusableFile(
            path, f"unpacked it would take {size >> 20} MB, far more than such a file does; it was not opened"
        )
    return parts
