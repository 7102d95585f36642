"""Actions on the results of a run: install, card image, download, delete."""

import base64
import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from test_queue import FakeHost

from lib_ti.embedding.read import read_embedding
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import to_safetensors
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.output_paths import embeddings_named, run_bytes
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.api import results as results_module
from lib_ti.webui.api.results import Results, delete_run, with_name
from lib_ti.webui.embedding_index import files_named, free_name
from lib_ti.webui.images.thumbnails import ThumbnailCache


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, pictures, tmp_path_factory) -> Path:
    """A run of six steps, with a snapshot every two steps and previews every three."""
    folder = tmp_path_factory.mktemp("finished")
    settings, problems = parse({
        "model": str(tiny_checkpoint), "images": str(pictures), "name": "my-mug", "out": str(folder / "embeddings"),
        "runs_dir": str(folder / "runs"), "steps": "6", "preview_every": "3", "preview_steps": "1", "snapshot_every": "2",
        "device": "cpu", "precision": "fp32",
    })  # fmt: skip
    assert not problems
    run = create_run(preflight(settings))
    assert execute_run(run)
    return run.path


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def run(finished, host) -> RunFolder:
    """A copy of the run, in a host that has its embedding."""
    folder = RunFolder(host.runs_dir / "my-mug" / finished.name)
    shutil.copytree(finished, folder.path)
    folder.store_settings(dataclasses.replace(folder.settings, out=host.embeddings_dir, runs_dir=host.runs_dir))
    shutil.copyfile(folder.embedding, host.embeddings_dir / "my-mug.safetensors")
    return folder


@pytest.fixture
def reloaded_names() -> list[str]:
    return []


@pytest.fixture
def results(host, reloaded_names) -> Results:
    return Results(host, ThumbnailCache(), reloaded_names.extend)


def file_contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- install --------------------------------------------------------------------------------------------------


def test_install_a_snapshot_and_the_result_again(results, run, host, reloaded_names):
    target = host.embeddings_dir / "my-mug.safetensors"
    assert results.install(run, 2, None, False) == "my-mug"
    assert target.read_bytes() == run.snapshot(2).read_bytes() != run.embedding.read_bytes()
    assert results.install(run, None, None, False) == "my-mug"
    assert target.read_bytes() == run.embedding.read_bytes()
    assert reloaded_names == ["my-mug", "my-mug"]


@pytest.mark.parametrize("name", ["my-mug-at-4", "M", "кружка", "杯" * 33, "a b c", "it's", "x" * 100])
def test_install_under_another_name_is_readable(results, run, host, name):
    assert results.install(run, 4, name, False) == name
    path = host.embeddings_dir / f"{name}.safetensors"
    before = load_safetensors(run.snapshot(4).read_bytes())
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == set(before)
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in before.items())
        metadata = file.metadata()
    with safe_open(str(run.snapshot(4)), framework="pt") as file:
        assert {k: v for k, v in metadata.items() if v != name} == {
            k: v for k, v in file.metadata().items() if v != "my-mug"
        }
    assert metadata["name"] == metadata["modelspec.title"] == metadata["modelspec.trigger_phrase"] == name
    embedding = read_embedding(path)
    assert embedding.num_vectors == 3
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0, "readers that map the file want it so"
    assert (host.embeddings_dir / "my-mug.safetensors").read_bytes() == run.embedding.read_bytes(), (
        "the word itself stays"
    )


def test_with_name_changes_only_name_keys():
    metadata = {"name": "mug", "checkpoint_name": "mug", "modelspec.title": "mug", "settings": '{"init_text": "mug"}'}
    data = with_name(to_safetensors(Embedding("mug", {"clip_l": torch.ones(1, 8)}, metadata)), "cup")
    length = int.from_bytes(data[:8], "little")
    renamed = json.loads(data[8 : 8 + length])["__metadata__"]
    assert renamed["name"] == renamed["modelspec.title"] == "cup"
    assert renamed["checkpoint_name"] == "mug"
    assert renamed["settings"] == metadata["settings"]


def test_foreign_embedding_is_overwritten_only_on_request(results, run, host):
    target = host.embeddings_dir / "my-cup.safetensors"
    target.write_bytes(b"somebody else's")
    with pytest.raises(BadInput, match="this word exists"):
        results.install(run, 2, "my-cup", False)
    assert target.read_bytes() == b"somebody else's"
    results.install(run, 2, "my-cup", True)
    assert read_embedding(target).num_vectors == 3


def test_install_over_a_foreign_file_of_the_same_name_is_refused(results, run, host):
    (host.embeddings_dir / "my-mug.safetensors").write_bytes(b"somebody else's")
    with pytest.raises(BadInput, match="this word exists"):
        results.install(run, 2, None, False)
    (host.embeddings_dir / "my-mug.safetensors").unlink()
    results.install(run, 2, None, False)


@pytest.mark.parametrize("other", ["My-Cup.pt", "my-cup.bin", "folder/my-cup.safetensors", "a/b/MY-CUP.PT"])
def test_name_is_taken_by_any_file_that_a_webui_would_load(results, run, host, other):
    path = host.embeddings_dir / other
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(BadInput):
        results.install(run, 2, "my-cup", False)
    assert files_named("my-cup", host.embeddings_dir) == [path.name]
    assert free_name("my-cup", host.embeddings_dir) == "my-cup-2"


@pytest.mark.parametrize(
    "name", ["", " ", "../up", "a/b", "a\\b", "..", ".x", "con", "a\0b", "x" * 101, "m.pt", "\ud800"]
)
def test_install_under_an_invalid_name_is_refused(results, run, host, name):
    before = file_contents(host.embeddings_dir.parent)
    with pytest.raises(BadInput) as raised:
        results.install(run, None, name, True)
    assert [p.option for p in raised.value.problems] == ["name"]
    assert file_contents(host.embeddings_dir.parent) == before


def test_install_creates_the_embeddings_folder(results, run, host):
    shutil.rmtree(host.embeddings_dir)
    results.install(run, None, None, False)
    assert (host.embeddings_dir / "my-mug.safetensors").read_bytes() == run.embedding.read_bytes()


@pytest.mark.parametrize("step", [1, 3, -2, 10**30])
def test_missing_snapshots_raise(results, run, step):
    with pytest.raises(TextualInversionError, match="not saved"):
        results.install(run, step, None, False)


def test_result_of_an_unfinished_run_is_its_last_snapshot(results, run):
    run.embedding.unlink()
    (run.path / "snapshots" / "a copy of mine.safetensors").write_bytes(b"x")
    (run.path / "snapshots" / "10.safetensors").write_bytes(run.snapshot(2).read_bytes())
    assert results.embedding_file(run, None) == run.snapshot(10)
    shutil.rmtree(run.path / "snapshots")
    with pytest.raises(TextualInversionError, match="not saved"):
        results.embedding_file(run, None)


def test_files_named_follows_links(host, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my-cup.pt").touch()
    (host.embeddings_dir / "linked").symlink_to(tmp_path / "elsewhere")
    (host.embeddings_dir / "round").symlink_to(host.embeddings_dir)
    assert files_named("my-cup", host.embeddings_dir) == ["my-cup.pt"]


def test_files_named_reads_names_inside_images(host):
    """It is called what it is called inside; no other picture takes a name, however it is called."""
    golden = Path(__file__).parent / "golden"
    for name in ("a1111-text.png", "a1111-pixels.webp"):
        shutil.copy(golden / name, host.embeddings_dir / f"holds {name}")
    for name in ("my-cup.png", "my-cup.webp", "my-cup.preview.png"):
        Image.new("RGB", (40, 40), "teal").save(host.embeddings_dir / name)
    shutil.copy(golden / "a1111-text.png", host.embeddings_dir / "my-hat.preview.png")
    (host.embeddings_dir / "my-hat.png").write_bytes((golden / "a1111-text.png").read_bytes()[:300])
    for find_files in (files_named, embeddings_named):
        assert find_files("My-Mug", host.embeddings_dir) == ["holds a1111-pixels.webp", "holds a1111-text.png"]
        assert not any(find_files(name, host.embeddings_dir) for name in ("holds a1111-text", "my-cup", "my-hat"))
    assert free_name("my-mug", host.embeddings_dir) == "my-mug-2"


def test_free_name_appends_a_number(host):
    assert free_name("my-mug", host.embeddings_dir) == "my-mug"
    assert free_name("my-mug", host.embeddings_dir / "missing") == "my-mug"
    for name in ("my-mug.pt", "MY-MUG-2.safetensors", "my-mug-4.bin", "my-mug-3.txt"):
        (host.embeddings_dir / name).touch()
    assert free_name("my-mug", host.embeddings_dir) == "my-mug-3"


# --- previews, cards, downloads ----------------------------------------------------------------------------------


def picture(url: str) -> Image.Image:
    head, _, data = url.partition(";base64,")
    assert head in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_previews_as_png_and_thumbnail(results, run):
    assert picture(results.preview(run, 3, 0, 0, full=True)).size == (64, 64)
    assert picture(results.preview(run, 3, 0, 0, full=False)).format == "JPEG"
    for index in ((2, 0, 0), (3, 9, 0), (3, 0, 9), (-3, 0, 0)):
        for full in (True, False):
            with pytest.raises(TextualInversionError, match="no longer exists"):
                results.preview(run, *index, full)


def test_preview_becomes_the_card_image(results, run, host):
    results.set_card_image(run, 3, 0, 0)
    assert (host.embeddings_dir / "my-mug.preview.png").read_bytes() == run.preview(3, 0, 0).read_bytes()
    with pytest.raises(TextualInversionError, match="no longer exists"):
        results.set_card_image(run, 2, 0, 0)
    assert (host.embeddings_dir / "my-mug.preview.png").read_bytes() == run.preview(3, 0, 0).read_bytes()


def test_download_returns_the_file(results, run):
    whole, early = results.download(run, None), results.download(run, 2)
    assert (whole["file"], base64.b64decode(whole["data"])) == ("my-mug.safetensors", run.embedding.read_bytes())
    assert (early["file"], base64.b64decode(early["data"])) == ("my-mug-2.safetensors", run.snapshot(2).read_bytes())


def test_open_folder_is_refused_if_paths_are_hidden(results, run, host, monkeypatch):
    started = []
    monkeypatch.setattr(results_module.shutil, "which", lambda name: None)
    monkeypatch.setattr(results_module.subprocess, "Popen", lambda command, **_: started.append(command))
    with pytest.raises(TextualInversionError, match="The folder is"):
        results.open_folder(run)
    host.hides_paths = True
    with pytest.raises(TextualInversionError) as raised:
        results.open_folder(run)
    assert str(run.path) not in str(raised.value)
    monkeypatch.setattr(results_module.shutil, "which", lambda name: "/usr/bin/" + name)
    with pytest.raises(TextualInversionError):
        results.open_folder(run)
    assert not started
    host.hides_paths = False
    results.open_folder(run)
    assert started[0][1:] == [str(run.path)]


# --- the end of a run --------------------------------------------------------------------------------------------


def test_delete_run_keeps_the_installed_embedding(run, host):
    other = run.path.with_name("2020-01-01T00-00-00")
    shutil.copytree(run.path, other)
    before = file_contents(host.embeddings_dir)
    delete_run(run)
    assert [p.name for p in host.runs_dir.rglob("*") if p.parent.name == "my-mug"] == [other.name]
    delete_run(RunFolder(other))
    assert list(host.runs_dir.iterdir()) == []
    assert file_contents(host.embeddings_dir) == before


def test_run_bytes_counts_previews():
    def room(**raw) -> int:
        return run_bytes(parse({"name": "my-mug", "steps": "100", **raw})[0], [], 512)

    nothing = room(preview_every="0")
    tests = 3  # pictures at the end
    assert room(preview_every="30") - nothing == (5 * 2 + tests) * 3 * 512**2  # two prompts without being asked
    pairs = 2 * (5 + 1) + 2 * tests  # what is without the word is the same at every step
    assert room(preview_every="30", kind="negative") - nothing == pairs * 3 * 512**2
    large = room(preview_every="100", preview_width="1024", preview_height="768", preview_prompt=["[name]"])
    assert large - nothing == (2 + tests) * 3 * 1024 * 768
