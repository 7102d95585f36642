"""Hostile pickles: nothing that they name is called.

Every file here would leave a mark on the disk, or makes torch.load run other code.
"""

import builtins
import codecs
import importlib
import io
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from lib_ti.embedding.read import read_embedding
from lib_ti.errors import UnusableFile
from lib_ti.formats import pickle_reader, pickle_scan
from lib_ti.formats.weights import open_weights


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def hostile_calls(mark: Path) -> dict[str, Call]:
    """Calls that would create the file `mark`, or give access to such calls."""
    command, code = f'echo > "{mark}"', f"open({str(mark)!r}, 'w')"
    return {
        "os.system": Call(os.system, command),
        "os.mkdir": Call(os.mkdir, str(mark)),
        "subprocess": Call(subprocess.call, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, str(mark), "w"),
        "io.open": Call(io.open, str(mark), "w"),
        "shutil": Call(shutil.copy, __file__, str(mark)),
        "numpy": Call(np.savetxt, str(mark), [1]),
        "torch.save": Call(torch.save, 1, str(mark)),
        "torch's load": Call(torch.load, __file__),
        "getattr": Call(getattr, object, "__subclasses__"),
        "__import__": Call(builtins.__import__, "os"),
        "importlib": Call(importlib.import_module, "os"),
        "runpy": Call(runpy.run_path, __file__),
        "operator": Call(operator.attrgetter, "__class__"),
        "types": Call(types.SimpleNamespace),
        "pickle": Call(pickle.loads, b"."),
        "this package": Call(read_embedding, Path("x.pt")),
        "itself": Call(pickle_reader.load, Path("x.pt")),
    }


def save_zip(value: object, path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": value}, path)


def save_old_container(value: object, path: Path) -> None:
    torch.save({"a": torch.zeros(2), "more": value}, path, _use_new_zipfile_serialization=False)


def save_bare_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, 4))


@pytest.mark.parametrize("write", [save_zip, save_old_container, save_bare_pickle], ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", hostile_calls(Path()))
def test_hostile_calls_are_refused(tmp_path, name, write):
    mark = tmp_path / "mark"
    write(hostile_calls(mark)[name], tmp_path / "model.ckpt")
    with pytest.raises(UnusableFile, match="contains code"):
        open_weights(tmp_path / "model.ckpt")
    assert not mark.exists()


def test_hostile_calls_work_when_unpickled(tmp_path):
    """Otherwise the test above would prove nothing."""
    pickle.loads(pickle.dumps(hostile_calls(tmp_path / "mark")["os.system"]))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("collections", "OrderedDict.__class__"),
        ("torch._utils", "_rebuild_tensor.__globals__"),
        ("torch", "storage.os.system"),
        ("builtins", "object.__subclasses__"),
        ("builtins", "str.format"),
        ("lib_ti.formats.pickle_reader", "sys.modules"),
        ("nt", "system"),
        ("posix", "system"),
        ("__main__", "anything"),
    ],
)
def test_dotted_names_are_refused(tmp_path, module, name):
    """Protocol 4 resolves dotted names, through which any attribute can be reached."""
    (tmp_path / "model.ckpt").write_bytes(b"\x80\4" + short_string_op(module) + short_string_op(name) + b"\x93)R.")
    with pytest.raises(UnusableFile, match="contains code"):
        open_weights(tmp_path / "model.ckpt")


def short_string_op(value: str) -> bytes:
    """SHORT_BINUNICODE without MEMOIZE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def pickle_ops(value: object) -> bytes:
    """The opcodes that build a value."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize("tail", [b"", b"PK\5\6"], ids=["plain", "hidden"])
def test_torchscript_is_not_loaded(tmp_path, monkeypatch, tail):
    """torch.load runs such an archive whatever `pickle_module` it is given, and loading can write files.

    With half an end record appended it is a zip archive to torch, but not to Python.
    """
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was loaded"))
    path = tmp_path / "model.ckpt"
    save_zip(None, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(UnusableFile, match="where its contents end" if tail else "contains code"):
        open_weights(path)


def test_module_source_in_an_old_file_is_not_written(tmp_path, monkeypatch):
    """Old files of whole modules hold the modules' source, and torch.load writes a .patch file if it has changed.

    Here it is the source of a function whose `__name__` the pickle has changed, and with it the patch's file name.
    """
    monkeypatch.chdir(tmp_path)
    function = (
        b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle_ops((None, {"dump_patches": True, "__name__": "mark"})) + b"b"
    )
    module = b"\x80\2(" + pickle_ops("module") + function + pickle_ops("source.py") + pickle_ops("rm -r /\n") + b"tQ."
    parts = [pickle.dumps(part, 2) for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {})]
    Path("model.ckpt").write_bytes(b"".join([*parts, module, pickle.dumps([], 2)]))
    with pytest.raises(UnusableFile):
        open_weights(Path("model.ckpt"))
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "_utils._rebuild_tensor_v2"),
        ("torch.storage", "TypedStorage"),
        ("torch", "FloatStorage"),
        ("collections", "OrderedDict"),
    ],
)
def test_allowed_globals_cannot_be_modified(tmp_path, module, name):
    """A pickle can set attributes of what it gets, which would last for the whole process."""
    path = tmp_path / "model.ckpt"
    set_state = b"\x93" + pickle_ops((None, {"mark": 1})) + b"b."
    path.write_bytes(b"\x80\4" + short_string_op(module) + short_string_op(name) + set_state)
    with pytest.raises(UnusableFile):
        open_weights(path)
    assert not hasattr(operator.attrgetter(name)(importlib.import_module(module)), "mark")


@pytest.mark.parametrize("name", ["embedding.pt", "model.ckpt"])
def test_tar_archives_are_refused(tmp_path, monkeypatch, name):
    """The first PyTorch's container, which torch.load unpacks into a temporary folder."""
    monkeypatch.setattr("tarfile.TarFile.extract", lambda *_, **__: pytest.fail("it was unpacked"))
    path = tmp_path / name
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(UnusableFile):
        pickle_reader.load(path)


def test_replaced_pickle_and_torch_load_have_no_effect(tmp_path, monkeypatch):
    """As libraries in AUTOMATIC1111's process do."""
    torch.save({"emb": torch.ones(2, 8)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(pickle, "Unpickler", type("Other", (pickle._Unpickler,), {}))
    monkeypatch.setattr(torch, "load", None)
    assert pickle_reader.load(tmp_path / "old.pt")["emb"].shape == (2, 8)


# --- memory --------------------------------------------------------------------------------------------------------


def compressed_archive(path: Path, name: str, size: int) -> Path:
    """A compressed embedding file with one entry of `size` zeros."""
    uncompressed = path.with_suffix(".whole")
    torch.save({"*": torch.ones(2, 768)}, uncompressed)
    with zipfile.ZipFile(uncompressed) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            if not entry.endswith(f"/{name}"):
                new.writestr(entry, old.read(entry))
        if size:
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", bytes(size))
    return path


@pytest.mark.parametrize("name", ["version", "data.pkl", "data/0", "more"])
def test_zip_bombs_are_refused(tmp_path, monkeypatch, name):
    path = compressed_archive(tmp_path / "bomb.pt", name, 80 << 20)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(torch._C, "PyTorchFileReader", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UnusableFile, match="unpacked it would take 80 MB"):
        read_embedding(path)


def test_small_compressed_archives_are_read(tmp_path):
    path = compressed_archive(tmp_path / "small.pt", "more", 0)
    assert read_embedding(path).vectors["clip_l"].tolist() == torch.ones(2, 768).tolist()


def test_wrong_sizes_in_an_archive_are_refused(tmp_path):
    path = tmp_path / "mug.pt"
    torch.save({"*": torch.ones(2, 768)}, path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = (1 << 30).to_bytes(4, "little")  # an entry's uncompressed size
    path.write_bytes(data)
    with pytest.raises(UnusableFile):
        read_embedding(path)


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=lambda kind: kind.__name__)
def test_huge_bytes_objects_are_refused(tmp_path, kind):
    save_bare_pickle({"*": Call(kind, 1 << 40)}, tmp_path / "bomb.pt")
    with pytest.raises(UnusableFile, match=r"fill the memory|not a PyTorch file"):
        read_embedding(tmp_path / "bomb.pt")
    save_zip({"*": Call(kind, 1 << 40)}, tmp_path / "bomb.pt")
    with pytest.raises(UnusableFile, match="fill the memory"):
        read_embedding(tmp_path / "bomb.pt")


def test_slow_text_encodings_are_refused(tmp_path):
    save_zip(Call(codecs.encode, "a" * 99, "idna"), tmp_path / "slow.pt")
    with pytest.raises(UnusableFile):
        read_embedding(tmp_path / "slow.pt")


@pytest.mark.parametrize("write", [save_zip, save_old_container], ids=lambda write: write.__name__)
@pytest.mark.parametrize("shape", [(2, 768), (75, 768), (10**6, 10**6)], ids=str)
def test_tensors_larger_than_their_storage_are_refused(tmp_path, write, shape):
    """torch would enlarge the storage, by uninitialized memory."""
    small = torch.zeros(4).untyped_storage()
    arguments = (
        torch.storage.TypedStorage(wrap_storage=small, dtype=torch.float32, _internal=True),
        0,
        shape,
        (shape[1], 1),
    )
    write(Call(torch._utils._rebuild_tensor_v2, *arguments, False, {}), tmp_path / "small.pt")
    with pytest.raises(UnusableFile, match="damaged"):
        read_embedding(tmp_path / "small.pt")


def test_expanded_tensors_are_judged_by_their_shape(tmp_path):
    torch.save({"*": torch.ones(1).expand(10**9, 768)}, tmp_path / "wide.pt")
    with pytest.raises(UnusableFile, match="has room for 75"):
        read_embedding(tmp_path / "wide.pt")


def test_deeply_nested_pickles_are_refused(tmp_path):
    depth = 200_000
    (tmp_path / "deep.pt").write_bytes(b"\x80\2" + b"(" * depth + b"]" + b"t" * depth + b".")
    with pytest.raises(UnusableFile):
        read_embedding(tmp_path / "deep.pt")


# --- opcodes that would take gigabytes, or forever ------------------------------------------------------------------


def hostile_opcodes() -> dict[str, bytes]:
    """Pickles of a few bytes, each of which would fill the memory or never end when it is loaded."""
    doubled_tuples = b"\x80\2" + b")" + b"q\1h\1\x86" * 60
    return {
        "memo index": b"\x80\2Nr\xff\xff\xff\x7f.",
        "memo index in decimal digits": b"\x80\2Np2000000000\n.",
        "length of bytes": b"\x80\4\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.",
        "length of text": b"\x80\4\x8d" + (1 << 40).to_bytes(8, "little") + b"abc.",
        "length of a byte array": b"\x80\5\x96" + (1 << 40).to_bytes(8, "little") + b"abc.",
        "frame": b"\x80\4\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
        "long number": b"\x80\2\x8b" + (1 << 30).to_bytes(4, "little") + b"1.",
        "endless decimal number": b"I" + b"9" * 100_000 + b"\n.",
        "key of doubled tuples": doubled_tuples + b"}q\2h\1N" + b"s.",
        "key of doubled tuples through lists": b"\x80\2)"
        + b"q\1]h\1ah\1aq\2c__builtin__\ntuple\nh\2\x85R" * 60
        + b"q\1}h\1Ns.",
    }


@pytest.mark.parametrize("zipped", [False, True], ids=["bare", "zip"])
@pytest.mark.parametrize("name", hostile_opcodes())
def test_hostile_opcodes_are_refused(tmp_path, name, zipped):
    path, opcodes = tmp_path / "mug.pt", hostile_opcodes()[name]
    path.write_bytes(opcodes)
    if zipped:
        torch.save({"*": torch.ones(2, 8)}, tmp_path / "good.pt")
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as hostile:
            for entry in good.namelist():
                hostile.writestr(entry, opcodes if entry.endswith(".pkl") else good.read(entry))
    with pytest.raises(UnusableFile, match=r"fill the memory|damaged"):
        read_embedding(path)


def test_a_scan_is_bounded(monkeypatch):
    monkeypatch.setattr(pickle_scan, "MAX_OPCODES", 1000)
    data = b"\x80\2" + b"N0" * 600 + b"N."
    with pytest.raises(pickle_scan.UnreasonablePickle):
        pickle_scan.PickleScanner().scan(io.BytesIO(data), len(data))


def test_storages_longer_than_the_file_are_not_allocated(tmp_path, monkeypatch):
    path = tmp_path / "mug.pt"
    torch.save({"*": torch.ones(2, 8)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"K\x10") >= 1  # the number of values, 16
    path.write_bytes(data.replace(b"K\x10", b"J\xff\xff\xff\x7f", 1))
    monkeypatch.setattr(torch, "UntypedStorage", None)
    with pytest.raises(UnusableFile, match="damaged"):
        read_embedding(path)


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this torch has no 8-bit floats")
def test_8_bit_floats_are_read(tmp_path):
    path = tmp_path / "mug.pt"
    values = torch.arange(16.0).reshape(2, 8)
    for number_format in (torch.float8_e4m3fn, torch.float8_e5m2):
        try:
            torch.save({"*": values.to(number_format)}, path)
        except KeyError:
            pytest.skip("this torch cannot save 8-bit floats")
        assert read_embedding(path).vectors["clip_l"].tolist() == values.to(number_format).float().tolist()
