"""Passing a word on: the texts in its file, other formats, and the zip with everything."""

import base64
import io
import json
import zipfile
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from test_results import finished, host, reloaded_names, results, run  # noqa: F401

from lib_ti.embedding.read import read_embedding
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.sharing.about import About, with_about
from lib_ti.runs.sharing.bundle import make_bundle
from lib_ti.webui.api.results import is_from_run
from lib_ti.webui.api.sharing import FORMAT_TITLES, Sharing

TEXTS = {"description": "The mug of our staff room.\nWhite, chipped.", "author": "Class 4 b", "license": "CC-BY-4.0"}


@pytest.fixture
def sharing(host, results, run):  # noqa: F811
    return Sharing(host, SimpleNamespace(folder=lambda _: run), results)


def decoded(reply):
    return base64.b64decode(reply["data"])


def test_texts_in_the_hosts_file_and_back(sharing, run, host, results):  # noqa: F811
    target = host.embeddings_dir / "my-mug.safetensors"
    assert sharing.about("r")["about"] == dict.fromkeys(TEXTS, "")
    sharing.describe("r", TEXTS)
    assert sharing.about("r")["about"] == TEXTS
    with safe_open(str(target), framework="pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("emb_params"), read_embedding(run.embedding).vectors["clip_l"])
    assert metadata["modelspec.license"] == "CC-BY-4.0"
    url = metadata["modelspec.thumbnail"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert picture.format == "JPEG"
    assert max(picture.size) <= 256
    assert not picture.getexif()

    assert is_from_run(target, run), "it is still this run's"
    assert results.in_use(run)["used_step"] == 6
    assert results.install(run, 2, None, overwrite=False) == "my-mug", "so another step may replace it"
    sharing.describe("r", {})
    assert target.read_bytes() != run.snapshot(2).read_bytes()
    assert with_about(target.read_bytes(), About()) == run.snapshot(2).read_bytes()


def test_a_file_of_another_training_is_not_described(sharing, host):  # noqa: F811
    target = host.embeddings_dir / "my-mug.safetensors"
    target.write_bytes(b"of someone else")
    with pytest.raises(TextualInversionError, match="not of this training"):
        sharing.describe("r", TEXTS)
    assert target.read_bytes() == b"of someone else"
    target.unlink()
    assert sharing.about("r")["about"]["author"] == ""


@pytest.mark.parametrize(
    "about",
    [
        {"author": 5},
        {"author": ["x"]},
        {"licence": "CC0"},
        {"author": "x" * 201},
        {"author": "a\0b"},
        {"author": "\ud800"},
    ],
)
def test_texts_that_are_none(sharing, about):
    with pytest.raises(BadInput):
        sharing.describe("r", about)


def test_formats(sharing, run, tmp_path):  # noqa: F811
    vectors = read_embedding(run.embedding).vectors["clip_l"]
    for name, file in [
        ("safetensors", "my-mug.safetensors"),
        ("a1111", "my-mug.pt"),
        ("diffusers", "my-mug.safetensors"),
    ]:
        reply = sharing.export("r", name)
        assert reply["file"] == file
        (tmp_path / file).write_bytes(decoded(reply))
        embedding = read_embedding(tmp_path / file)
        assert torch.equal(next(iter(embedding.vectors.values())), vectors)
    assert torch.load(io.BytesIO(decoded(sharing.export("r", "a1111"))), weights_only=True)["name"] == "my-mug"
    with pytest.raises(BadInput):
        sharing.export("r", "../x")
    assert set(sharing.about("r")["formats"]) == set(FORMAT_TITLES)


def test_the_zip_holds_everything_and_no_path(sharing, run, tmp_path):  # noqa: F811
    reply = sharing.share("r", TEXTS)
    assert reply["file"] == "my-mug.zip"
    archive = zipfile.ZipFile(io.BytesIO(decoded(reply)))
    assert archive.testzip() is None
    names = set(archive.namelist())
    assert {
        "my-mug.safetensors", "AUTOMATIC1111/my-mug.pt", "diffusers/my-mug.safetensors", "my-mug.preview.png", "README.txt",
    } <= names  # fmt: skip
    unpacked = tmp_path / "unpacked"
    archive.extractall(unpacked)
    vectors = read_embedding(run.embedding).vectors["clip_l"]
    for name in ("my-mug.safetensors", "AUTOMATIC1111/my-mug.pt", "diffusers/my-mug.safetensors"):
        embedding = read_embedding(unpacked / name)
        assert torch.equal(next(iter(embedding.vectors.values())), vectors)
        assert embedding.metadata["modelspec.author"] == "Class 4 b", name
    readme = (unpacked / "README.txt").read_text(encoding="utf-8")
    for text in (*TEXTS.values(), "write my-mug into a prompt", "Prompts of the pictures:"):
        assert text in readme
    for path in unpacked.rglob("*"):
        assert not path.is_file() or str(run.path.parent.parent).encode() not in path.read_bytes()
    again = zipfile.ZipFile(io.BytesIO(decoded(sharing.share("r", TEXTS))))
    for name in names - {"AUTOMATIC1111/my-mug.pt"}:  # torch writes memory addresses into that one
        assert again.read(name) == archive.read(name), name


def test_a_zip_without_texts_or_pictures(run):  # noqa: F811
    for picture in [*run.path.glob("tests/*.png"), *run.path.glob("previews/*.png")]:
        picture.unlink()
    archive = zipfile.ZipFile(io.BytesIO(make_bundle(run, run.embedding, About())))
    assert "Licence: not stated" in archive.read("README.txt").decode()
    assert not [name for name in archive.namelist() if name.endswith(".png")]
    assert json.dumps(archive.namelist())
