"""What becomes of a run's results: words in the host's folder, cards, downloads, and the run's end."""

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
from lib_ti.settings.train_settings import parse
from lib_ti.training.preflight.output_paths import answering_to, space_needed
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.api import results as module
from lib_ti.webui.api.results import Results, delete_run, with_name
from lib_ti.webui.embedding_index import files_named, free_name
from lib_ti.webui.images.thumbnails import ThumbnailCache


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, pictures, tmp_path_factory) -> Path:
    """A run of six steps, with snapshots at each second and previews at each third."""
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
    """A copy of the run, in a host that has its word."""
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


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- a step as the word ------------------------------------------------------------------------------------------


def test_an_earlier_step_becomes_the_word_and_back(results, run, host, reloaded_names):
    target = host.embeddings_dir / "my-mug.safetensors"
    assert results.install(run, 2, None, False) == "my-mug"
    assert target.read_bytes() == run.snapshot(2).read_bytes() != run.embedding.read_bytes()
    assert results.install(run, None, None, False) == "my-mug"
    assert target.read_bytes() == run.embedding.read_bytes()
    assert reloaded_names == ["my-mug", "my-mug"]


@pytest.mark.parametrize("name", ["my-mug-at-4", "M", "кружка", "杯" * 33, "a b c", "it's", "x" * 100])
def test_under_another_name_it_is_a_file_that_others_read(results, run, host, name):
    assert results.install(run, 4, name, False) == name
    path = host.embeddings_dir / f"{name}.safetensors"
    before = load_safetensors(run.snapshot(4).read_bytes())
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == set(before)
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in before.items())
        said = file.metadata()
    with safe_open(str(run.snapshot(4)), framework="pt") as file:
        assert {k: v for k, v in said.items() if v != name} == {
            k: v for k, v in file.metadata().items() if v != "my-mug"
        }
    assert said["name"] == said["modelspec.title"] == said["modelspec.trigger_phrase"] == name
    found = read_embedding(path)
    assert found.num_vectors == 2
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0, "readers that map the file want it so"
    assert (host.embeddings_dir / "my-mug.safetensors").read_bytes() == run.embedding.read_bytes(), (
        "the word itself stays"
    )


def test_only_the_names_of_the_word_are_changed():
    said = {"name": "mug", "checkpoint_name": "mug", "modelspec.title": "mug", "settings": '{"init_text": "mug"}'}
    data = with_name(to_safetensors(Embedding("mug", {"clip_l": torch.ones(1, 8)}, said)), "cup")
    length = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + length])["__metadata__"]
    assert found["name"] == found["modelspec.title"] == "cup"
    assert found["checkpoint_name"] == "mug"
    assert found["settings"] == said["settings"]


def test_a_word_of_somebody_else_is_replaced_only_when_asked(results, run, host):
    target = host.embeddings_dir / "my-cup.safetensors"
    target.write_bytes(b"somebody else's")
    with pytest.raises(BadInput, match="exists already"):
        results.install(run, 2, "my-cup", False)
    assert target.read_bytes() == b"somebody else's"
    results.install(run, 2, "my-cup", True)
    assert read_embedding(target).num_vectors == 2


def test_the_words_own_name_may_be_somebody_elses_by_now(results, run, host):
    (host.embeddings_dir / "my-mug.safetensors").write_bytes(b"somebody else's")
    with pytest.raises(BadInput, match="exists already"):
        results.install(run, 2, None, False)
    (host.embeddings_dir / "my-mug.safetensors").unlink()
    results.install(run, 2, None, False)


@pytest.mark.parametrize("other", ["My-Cup.pt", "my-cup.bin", "folder/my-cup.safetensors", "a/b/MY-CUP.PT"])
def test_any_file_that_a_webui_calls_so_takes_the_name(results, run, host, other):
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
def test_names_that_cannot_be(results, run, host, name):
    before = files(host.embeddings_dir.parent)
    with pytest.raises(BadInput) as raised:
        results.install(run, None, name, True)
    assert [p.option for p in raised.value.problems] == ["name"]
    assert files(host.embeddings_dir.parent) == before


def test_a_host_whose_folder_is_not_there_yet(results, run, host):
    shutil.rmtree(host.embeddings_dir)
    results.install(run, None, None, False)
    assert (host.embeddings_dir / "my-mug.safetensors").read_bytes() == run.embedding.read_bytes()


@pytest.mark.parametrize("step", [1, 3, -2, 10**30])
def test_steps_that_were_not_kept(results, run, step):
    with pytest.raises(TextualInversionError, match="not saved"):
        results.install(run, step, None, False)


def test_of_an_unfinished_run_the_last_snapshot_is_the_result(results, run):
    run.embedding.unlink()
    (run.path / "snapshots" / "a copy of mine.safetensors").write_bytes(b"x")
    (run.path / "snapshots" / "10.safetensors").write_bytes(run.snapshot(2).read_bytes())
    assert results.embedding_file(run, None) == run.snapshot(10)
    shutil.rmtree(run.path / "snapshots")
    with pytest.raises(TextualInversionError, match="not saved"):
        results.embedding_file(run, None)


def test_a_link_to_a_folder_that_a_webui_follows_takes_names_too(host, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my-cup.pt").touch()
    (host.embeddings_dir / "linked").symlink_to(tmp_path / "elsewhere")
    (host.embeddings_dir / "round").symlink_to(host.embeddings_dir)
    assert files_named("my-cup", host.embeddings_dir) == ["my-cup.pt"]


def test_a_picture_takes_the_name_of_the_embedding_in_it(host):
    """It is called what it is called inside; no other picture takes a name, however it is called."""
    golden = Path(__file__).parent / "golden"
    for name in ("a1111-text.png", "a1111-pixels.webp"):
        shutil.copy(golden / name, host.embeddings_dir / f"holds {name}")
    for name in ("my-cup.png", "my-cup.webp", "my-cup.preview.png"):
        Image.new("RGB", (40, 40), "teal").save(host.embeddings_dir / name)
    shutil.copy(golden / "a1111-text.png", host.embeddings_dir / "my-hat.preview.png")
    (host.embeddings_dir / "my-hat.png").write_bytes((golden / "a1111-text.png").read_bytes()[:300])
    for looks in (files_named, answering_to):
        assert looks("My-Mug", host.embeddings_dir) == ["holds a1111-pixels.webp", "holds a1111-text.png"]
        assert not any(looks(name, host.embeddings_dir) for name in ("holds a1111-text", "my-cup", "my-hat"))
    assert free_name("my-mug", host.embeddings_dir) == "my-mug-2"


def test_free_names(host):
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


def test_previews_are_shown(results, run):
    assert picture(results.preview(run, 3, 0, 0, full=True)).size == (64, 64)
    assert picture(results.preview(run, 3, 0, 0, full=False)).format == "JPEG"
    for place in ((2, 0, 0), (3, 9, 0), (3, 0, 9), (-3, 0, 0)):
        for full in (True, False):
            with pytest.raises(TextualInversionError, match="not there any more"):
                results.preview(run, *place, full)


def test_a_preview_becomes_the_card(results, run, host):
    results.set_card_image(run, 3, 0, 0)
    assert (host.embeddings_dir / "my-mug.preview.png").read_bytes() == run.preview(3, 0, 0).read_bytes()
    with pytest.raises(TextualInversionError, match="not there any more"):
        results.set_card_image(run, 2, 0, 0)
    assert (host.embeddings_dir / "my-mug.preview.png").read_bytes() == run.preview(3, 0, 0).read_bytes()


def test_downloads_are_the_files(results, run):
    whole, early = results.download(run, None), results.download(run, 2)
    assert (whole["file"], base64.b64decode(whole["data"])) == ("my-mug.safetensors", run.embedding.read_bytes())
    assert (early["file"], base64.b64decode(early["data"])) == ("my-mug-2.safetensors", run.snapshot(2).read_bytes())


def test_folders_are_opened_only_where_they_may_be_known(results, run, host, monkeypatch):
    started = []
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.subprocess, "Popen", lambda command, **_: started.append(command))
    with pytest.raises(TextualInversionError, match="The folder is"):
        results.open_folder(run)
    host.hides_paths = True
    with pytest.raises(TextualInversionError) as raised:
        results.open_folder(run)
    assert str(run.path) not in str(raised.value)
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/" + name)
    with pytest.raises(TextualInversionError):
        results.open_folder(run)
    assert not started
    host.hides_paths = False
    results.open_folder(run)
    assert started[0][1:] == [str(run.path)]


# --- the end of a run --------------------------------------------------------------------------------------------


def test_a_deleted_run_is_gone_and_its_word_stays(run, host):
    other = run.path.with_name("2020-01-01T00-00-00")
    shutil.copytree(run.path, other)
    before = files(host.embeddings_dir)
    delete_run(run)
    assert [p.name for p in host.runs_dir.rglob("*") if p.parent.name == "my-mug"] == [other.name]
    delete_run(RunFolder(other))
    assert list(host.runs_dir.iterdir()) == []
    assert files(host.embeddings_dir) == before


def test_previews_take_room_by_their_number_and_size():
    def room(**raw) -> int:
        return space_needed(parse({"steps": "100", **raw})[0], [], 512)

    nothing = room(preview_every="0")
    assert room(preview_every="30") - nothing == 5 * 2 * 3 * 512**2  # two prompts without being asked
    assert room(preview_every="30", kind="negative") - nothing == 5 * 3 * 512**2
    large = room(preview_every="100", preview_width="1024", preview_height="768", preview_prompt=["[name]"])
    assert large - nothing == 2 * 3 * 1024 * 768
