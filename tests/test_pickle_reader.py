"""An old PyTorch file may say "call this function": nothing it names is run, and nobody's class is needed to read it.

Every file here would leave a mark on the disk, or is one that torch.load hands on to code of its own.
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
from lib_ti.formats import pickle_reader
from lib_ti.formats.weights import open_weights


class Call:
    """Pickled, it is an order to call a function."""

    def __init__(self, function, *arguments) -> None:
        self.order = function, arguments

    def __reduce__(self):
        return self.order


def hostile(mark: Path) -> dict[str, Call]:
    """Calls that would leave `mark`, or lead to some that would."""
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


def in_zip(thing: object, path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": thing}, path)


def in_old_container(thing: object, path: Path) -> None:
    torch.save({"a": torch.zeros(2), "more": thing}, path, _use_new_zipfile_serialization=False)


def bare(thing: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(thing, 4))


@pytest.mark.parametrize("write", [in_zip, in_old_container, bare], ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", hostile(Path()))
def test_no_call_is_made(tmp_path, name, write):
    mark = tmp_path / "mark"
    write(hostile(mark)[name], tmp_path / "model.ckpt")
    with pytest.raises(UnusableFile, match="contains code"):
        open_weights(tmp_path / "model.ckpt")
    assert not mark.exists()


def test_the_calls_would_leave_their_mark(tmp_path):
    """Else the test above would prove nothing."""
    pickle.loads(pickle.dumps(hostile(tmp_path / "mark")["os.system"]))
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
def test_no_way_leads_round_through_attributes(tmp_path, module, name):
    """Newer pickles name things by a path, along which anything can be reached from anything."""
    (tmp_path / "model.ckpt").write_bytes(b"\x80\4" + text(module) + text(name) + b"\x93)R.")
    with pytest.raises(UnusableFile, match="contains code"):
        open_weights(tmp_path / "model.ckpt")


def text(value: str) -> bytes:
    """The order to push a short string, without a place in the memory for it."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def push(value: object) -> bytes:
    """The orders that build a value."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize("tail", [b"", b"PK\5\6"], ids=["plain", "hidden"])
def test_torchscript_is_not_run(tmp_path, monkeypatch, tail):
    """To torch.load such an archive is a program, whatever unpickler it was given; loading one can write files.

    With half an end mark behind it, it is a zip archive to torch, but none to Python.
    """
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was loaded"))
    path = tmp_path / "model.ckpt"
    in_zip(None, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(UnusableFile, match="where its contents end" if tail else "contains code"):
        open_weights(path)


def test_the_source_in_an_old_file_is_not_written_out(tmp_path, monkeypatch):
    """Old files of whole modules hold these modules' source, and torch.load writes a .patch where it has changed.

    Here it is "the source" of a function that the file first gave another name, and so the patch another place.
    """
    monkeypatch.chdir(tmp_path)
    function = b"ctorch._utils\n_rebuild_tensor_v2\n" + push((None, {"dump_patches": True, "__name__": "mark"})) + b"b"
    module = b"\x80\2(" + push("module") + function + push("source.py") + push("rm -r /\n") + b"tQ."
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
def test_what_a_pickle_may_name_it_cannot_change(tmp_path, module, name):
    """A pickle can set attributes of what it was given: these would stay changed for the whole process."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"\x80\4" + text(module) + text(name) + b"\x93" + push((None, {"mark": 1})) + b"b.")
    with pytest.raises(UnusableFile):
        open_weights(path)
    assert not hasattr(operator.attrgetter(name)(importlib.import_module(module)), "mark")


@pytest.mark.parametrize("name", ["embedding.pt", "model.ckpt"])
def test_tar_archives_are_not_unpacked(tmp_path, monkeypatch, name):
    """The container of the first PyTorch, which torch.load unpacks into a temporary folder."""
    monkeypatch.setattr("tarfile.TarFile.extract", lambda *_, **__: pytest.fail("it was unpacked"))
    path = tmp_path / name
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(UnusableFile):
        pickle_reader.load(path)


def test_a_replaced_unpickler_changes_nothing(tmp_path, monkeypatch):
    """As a library in AUTOMATIC1111's process does it."""
    torch.save({"emb": torch.ones(2, 8)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(pickle, "Unpickler", type("Other", (pickle._Unpickler,), {}))
    monkeypatch.setattr(torch, "load", None)
    assert pickle_reader.load(tmp_path / "old.pt")["emb"].shape == (2, 8)


# --- memory --------------------------------------------------------------------------------------------------------


def packed(path: Path, name: str, size: int) -> Path:
    """An embedding's archive, compressed, and in it a part of that many zeros."""
    whole = path.with_suffix(".whole")
    torch.save({"*": torch.ones(2, 768)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            if not part.endswith(f"/{name}"):
                new.writestr(part, old.read(part))
        if size:
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", bytes(size))
    return path


@pytest.mark.parametrize("name", ["version", "data.pkl", "data/0", "more"])
def test_archives_that_would_fill_the_memory_are_not_unpacked(tmp_path, monkeypatch, name):
    path = packed(tmp_path / "bomb.pt", name, 80 << 20)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(torch._C, "PyTorchFileReader", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UnusableFile, match="unpacked it would take 80 MB"):
        read_embedding(path)


def test_a_compressed_archive_is_read_where_it_is_small(tmp_path):
    path = packed(tmp_path / "small.pt", "more", 0)
    assert read_embedding(path).vectors["clip_l"].tolist() == torch.ones(2, 768).tolist()


def test_an_archive_that_lies_of_its_size_is_refused(tmp_path):
    path = tmp_path / "mug.pt"
    torch.save({"*": torch.ones(2, 768)}, path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = (1 << 30).to_bytes(4, "little")  # a part's size, unpacked
    path.write_bytes(data)
    with pytest.raises(UnusableFile):
        read_embedding(path)


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=lambda kind: kind.__name__)
def test_no_memory_is_filled_with_zeros(tmp_path, kind):
    bare({"*": Call(kind, 1 << 40)}, tmp_path / "bomb.pt")
    with pytest.raises(UnusableFile, match=r"fill the memory|not a PyTorch file"):
        read_embedding(tmp_path / "bomb.pt")
    in_zip({"*": Call(kind, 1 << 40)}, tmp_path / "bomb.pt")
    with pytest.raises(UnusableFile, match="fill the memory"):
        read_embedding(tmp_path / "bomb.pt")


def test_text_in_encodings_that_take_for_ever(tmp_path):
    in_zip(Call(codecs.encode, "a" * 99, "idna"), tmp_path / "slow.pt")
    with pytest.raises(UnusableFile):
        read_embedding(tmp_path / "slow.pt")


@pytest.mark.parametrize("write", [in_zip, in_old_container], ids=lambda write: write.__name__)
@pytest.mark.parametrize("shape", [(2, 768), (75, 768), (10**6, 10**6)], ids=str)
def test_a_tensor_is_no_larger_than_its_data(tmp_path, write, shape):
    """torch would enlarge its storage, by whatever lies in the memory."""
    small = torch.zeros(4).untyped_storage()
    order = (
        torch.storage.TypedStorage(wrap_storage=small, dtype=torch.float32, _internal=True),
        0,
        shape,
        (shape[1], 1),
    )
    write(Call(torch._utils._rebuild_tensor_v2, *order, False, {}), tmp_path / "small.pt")
    with pytest.raises(UnusableFile, match="damaged"):
        read_embedding(tmp_path / "small.pt")


def test_a_tensor_that_is_one_number_over_and_over_is_judged_by_its_shape(tmp_path):
    torch.save({"*": torch.ones(1).expand(10**9, 768)}, tmp_path / "wide.pt")
    with pytest.raises(UnusableFile, match="has room for 75"):
        read_embedding(tmp_path / "wide.pt")


def test_deep_nesting_is_survived(tmp_path):
    depth = 200_000
    (tmp_path / "deep.pt").write_bytes(b"\x80\2" + b"(" * depth + b"]" + b"t" * depth + b".")
    with pytest.raises(UnusableFile):
        read_embedding(tmp_path / "deep.pt")
