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
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib_ti.errors import UnusableFile
from lib_ti.formats.pickle_scan import UnreasonablePickle
from lib_ti.formats.torch_container import AMBIGUOUS, check_archive, scan_archive, scan_sequence

_DTYPES = (
    "float16", "float32", "float64", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
"""Some of which a torch may lack."""

_ALLOWED_GLOBALS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    *(f"torch.{dtype}" for dtype in _DTYPES if hasattr(torch, dtype)),
}  # fmt: skip
_ALLOWED_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "str", "complex", "slice",
                     "object"}  # fmt: skip
_REFUSED_PACKAGES = {
    *sys.stdlib_module_names, "__builtin__", "__main__", "posix", "nt", "commands",  # also other systems' and Python 2's
    "torch", "numpy", "lib_ti", "pip", "setuptools",
}  # fmt: skip


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

    def __setattr__(self, name: str, value: Any) -> None:
        """Wrap the loader that torch sets. A property would not do: from Python 3.13 on, the base class keeps its own copy."""
        super().__setattr__(name, self._storage_loader(value) if name == "persistent_load" else value)

    def _storage_loader(self, load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def load_storage(persistent_id: Any) -> Any:
            if persistent_id[0] in (
                "module",
                b"module",
            ):  # old files: a class and its source, which torch would compare
                return persistent_id[1]
            return load(self._checked_storage(persistent_id))

        return load_storage

    max_storage_bytes: Callable[[str], int]

    def _checked_storage(self, persistent_id: Any) -> Any:
        """A storage's persistent id. torch allocates as much memory as it claims, before it looks for its data."""
        kind, storage_type, key, location, count, *rest = persistent_id
        if isinstance(storage_type, _UntypedStorage):
            storage_type = torch.UntypedStorage
        itemsize = 1 if storage_type is torch.UntypedStorage else torch._utils._element_size(storage_type.dtype)
        if not (isinstance(count, int) and 0 <= count * itemsize <= self.max_storage_bytes(str(key))):
            raise ValueError("a tensor's data is longer than the file")
        return (kind, storage_type, key, location, count, *rest)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "torch.nn.modules.container.ParameterDict":
            return _ParameterDict
        if full_name == "torch._utils._rebuild_tensor_v3":  # of dtypes that have no class of storages
            return functools.partial(_rebuild_checked_tensor, None)
        if full_name in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            return _UntypedStorage()
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


class _UntypedStorage:
    """Stands for torch's class in a pickle, which could otherwise call it to allocate memory."""


def _rebuild_checked_tensor(rebuild: Any, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    """A tensor within its storage. torch would enlarge a storage that is too small, by uninitialized memory.

    `rebuild`: None for `_rebuild_tensor_v3`, whose dtype is not its storage's; early releases of torch lack it.
    """
    dtype = storage.dtype if rebuild else rest[2]
    last_index = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last_index >= storage._untyped_storage.nbytes() // dtype.itemsize:
        raise ValueError("a tensor is larger than its data")
    if rebuild:
        return rebuild(storage, offset, size, stride, *rest)
    return torch.empty(0, dtype=dtype).set_(storage._untyped_storage, offset, size, stride)


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


def _pickle_module(max_storage_bytes: Callable[[str], int]) -> Any:
    """What torch takes as its `pickle_module`. `max_storage_bytes`: of the storage with a key."""
    unpickler = type("Unpickler", (_Unpickler,), {"max_storage_bytes": staticmethod(max_storage_bytes)})

    def load_pickle(file: Any, **options: Any) -> Any:
        return unpickler(file, **options).load()

    return types.SimpleNamespace(__name__=__name__, Unpickler=unpickler, load=load_pickle)


class _PicklePath(str):
    """A path that torch takes for a pickle's, whatever it ends in: it would read `.safetensors` as such a file."""

    __slots__ = ()

    def endswith(self, *_: Any) -> bool:
        return False


def load(path: Path) -> Any:
    """The object in a PyTorch file, its tensors on the CPU and memory-mapped where the container allows.

    Raises UnusableFile, also for a file that would run code.
    """
    try:
        options: dict[str, Any] = {}
        size = path.stat().st_size
        storage_sizes: dict[str, int] = {}
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            entries = check_archive(path)
            records = torch._C.PyTorchFileReader(str(path)).get_all_records()
            if "constants.pkl" in records:
                raise _ForbiddenGlobal("it is a TorchScript program")
            if sorted(records) != sorted(entry.filename.partition("/")[2] for entry in entries):
                raise UnusableFile(path, AMBIGUOUS)
            scan_archive(path, entries)
            storage_sizes = {entry.filename.partition("/data/")[2]: entry.file_size for entry in entries}
            options["mmap"] = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        elif tarfile.is_tarfile(path):  # which torch would unpack to disk
            raise UnusableFile(path, "a tar archive, not a PyTorch file of the last years")
        else:
            scan_sequence(path, size)
        # not torch.load, which WebUIs replace in their process: Forge's version renames files that it cannot read
        return torch.serialization.load(
            _PicklePath(path), map_location="cpu", pickle_module=_pickle_module(lambda key: storage_sizes.get(key, size)),
            weights_only=False, **options,
        )  # fmt: skip
    except UnusableFile:
        raise
    except _ForbiddenGlobal as error:
        raise UnusableFile(path, f"this file contains code ({error}); it was not opened") from error
    except UnreasonablePickle as error:
        raise UnusableFile(path, f"it would fill the memory or never end ({error}); it was not opened") from error
    except Exception as error:  # damage may raise anything in the parsers
        raise UnusableFile(path, f"damaged, or not a PyTorch file ({type(error).__name__})") from error
