"""Loads PyTorch pickle files (.pt, .bin, .ckpt) without running any code in them.

A pickle may call any function of any module. Here it may name PyTorch's tensor rebuilding functions and a few harmless
containers. Classes of other packages (Lightning's callbacks in the official Stable Diffusion checkpoints) become inert stubs;
everything of Python's standard library, where the dangerous functions are, is refused.
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

_ALLOWED_GLOBALS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    *(f"torch.{dtype}" for dtype in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "uint8", "bool")),
}  # fmt: skip
_ALLOWED_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "complex", "slice",
                     "object"}  # fmt: skip
_REFUSED_PACKAGES = {
    *sys.stdlib_module_names, "__builtin__", "__main__", "posix", "nt", "commands",  # also other systems' and Python 2's
    "torch", "numpy", "lib_ti", "pip", "setuptools",
}  # fmt: skip
_AMBIGUOUS = "damaged, or not a PyTorch file (where its contents end is not clear)"
_MAX_PICKLE_BYTES = 256 << 20  # of an archive's .pkl, which is read whole; a checkpoint's takes a few million
_MAX_INFLATED_BYTES = 64 << 20  # of a compressed archive's entries together; torch itself never compresses


class _ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle names something that could run code."""


class _Stub:
    """Replaces an object of an unknown class: accepts any constructor call and any state, and does nothing."""

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
    """torch's ParameterDict as a plain dict: the original Textual Inversion code stores an embedding's vectors in one."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state.get("_parameters") or {})

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Unpickler(_pickle.Unpickler):  # not pickle.Unpickler, which a library in a WebUI's process may have replaced
    """Resolves harmless globals only. torch sets `persistent_load`, which loads tensors' storages."""

    @property
    def persistent_load(self) -> Any:
        return self._load_storage

    @persistent_load.setter
    def persistent_load(self, load: Any) -> None:
        def load_storage(persistent_id: Any) -> Any:
            if persistent_id[0] in (
                "module",
                b"module",
            ):  # old files: a class and its source, which torch would compare
                return persistent_id[1]
            return load(persistent_id)

        self._load_storage = load_storage
        _pickle.Unpickler.persistent_load.__set__(self, load_storage)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "torch.nn.modules.container.ParameterDict":
            return _ParameterDict
        if full_name in _ALLOWED_GLOBALS and "." not in name:
            allowed = super().find_class(module, name)
            # a new object each time: a pickle can set attributes of what it gets
            if name.startswith("_rebuild_tensor"):
                return functools.partial(_rebuild_checked_tensor, allowed)
            return functools.partial(allowed) if module == "torch._utils" else allowed
        if module in ("builtins", "__builtin__") and name in _ALLOWED_BUILTINS:
            return super().find_class("builtins", name)
        if module in ("builtins", "__builtin__") and name in ("bytes", "bytearray"):
            return functools.partial(_make_bytes, getattr(builtins, name))
        if full_name == "_codecs.encode":
            return functools.partial(_encode)
        if full_name in ("copyreg._reconstructor", "copy_reg._reconstructor"):
            return functools.partial(_reconstruct)
        package = module.split(".")[0]
        if package == "numpy" and name in ("scalar", "dtype", "_reconstruct", "ndarray"):
            return type(name, (_Stub,), {})  # metrics that a trainer stored; no weights
        if package in _REFUSED_PACKAGES:
            raise _ForbiddenGlobal(f"it would call {full_name}")
        return type(name.rpartition(".")[2] or "Stub", (_Stub,), {})


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`, for stubs and plain containers only."""
    return cls() if isinstance(cls, type) and issubclass(cls, _Stub) else base(state)


def _rebuild_checked_tensor(rebuild: Any, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    """A tensor within its storage. torch would enlarge a storage that is too small, by uninitialized memory."""
    last_index = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last_index >= storage._untyped_storage.nbytes() // storage.dtype.itemsize:
        raise ValueError("a tensor is larger than its data")
    return rebuild(storage, offset, size, stride, *rest)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`codecs.encode` as it occurs for Python 2's bytes. Other encodings are refused: some take quadratic time."""
    if encoding not in ("latin1", "latin-1"):
        raise _ForbiddenGlobal(f"it would encode text as {encoding}")
    return text.encode(encoding)


def _make_bytes(kind: Any, *content: Any) -> Any:
    """`bytes(...)` or `bytearray(...)` of some content. Called with a number, they would allocate that many zeros."""
    if any(isinstance(part, int) for part in content):
        raise _ForbiddenGlobal("it would fill the memory")
    return kind(*content)


class _RestrictedPickle:
    """Passed to torch as its `pickle_module`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def load(path: Path) -> Any:
    """The object in a PyTorch file, its tensors on the CPU and memory-mapped where the container allows.

    Raises UnusableFile, also for a file that would run code.
    """
    try:
        options: dict[str, Any] = {}
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            entries = _check_archive(path)
            records = torch._C.PyTorchFileReader(str(path)).get_all_records()
            if "constants.pkl" in records:
                raise _ForbiddenGlobal("it is a TorchScript program")
            if sorted(records) != sorted(entry.filename.partition("/")[2] for entry in entries):
                raise UnusableFile(path, _AMBIGUOUS)
            options["mmap"] = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        elif tarfile.is_tarfile(path):  # which torch would unpack to disk
            raise UnusableFile(path, "a tar archive, not a PyTorch file of the last years")
        # not torch.load, which WebUIs replace in their process: Forge's version renames files that it cannot read
        return torch.serialization.load(
            str(path), map_location="cpu", pickle_module=_RestrictedPickle, weights_only=False, **options
        )
    except UnusableFile:
        raise
    except _ForbiddenGlobal as error:
        raise UnusableFile(path, f"this file contains code ({error}); it was not opened") from error
    except Exception as error:  # damage may raise anything in the parsers
        raise UnusableFile(path, f"damaged, or not a PyTorch file ({type(error).__name__})") from error


def _check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive. Raises UnusableFile for one that would take far too much memory.

    torch's reader believes whatever sizes an archive states, so it must see the same entries as Python's `zipfile` does here:
    the end of the archive must be the end of the file, without a comment that hides another one.
    """
    with path.open("rb") as file:
        file.seek(-22, 2)
        end_record = file.read()
    if end_record[:4] != b"PK\5\6" or end_record[-2:] != bytes(2):
        raise UnusableFile(path, _AMBIGUOUS)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    size = sum(entry.file_size for entry in entries)
    pickle_size = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
    if pickle_size > _MAX_PICKLE_BYTES or size > (path.stat().st_size if stored else _MAX_INFLATED_BYTES):
        raise UnusableFile(
            path, f"unpacked it would take {size >> 20} MB, far more than such a file does; it was not opened"
        )
    return entries
