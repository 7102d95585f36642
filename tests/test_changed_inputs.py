"""A resumed run has the inputs that it began with, or says which are others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from reference.folder import write_folder
from reference.trainings import settings_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.errors import BadInput, UnusableFile
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.resume import resume
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.resuming import manifest as manifest_module
from lib_ti.training.resuming.manifest import Manifest, fingerprint, section_of


def stop_at(step: int, settings: TrainSettings) -> RunFolder:
    folder, seen = create_run(preflight(settings)), []
    assert not execute_run(folder, seen.append, lambda: any(e.data.get("step") == step for e in seen))
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A copy that a test may change."""
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(tiny_checkpoint.with_suffix(suffix), tmp_path / f"model{suffix}")
    return tmp_path / "model.safetensors"


@pytest.fixture
def stopped(checkpoint, pictures, tmp_path) -> RunFolder:
    captioned = tmp_path / "pictures"
    shutil.copytree(pictures, captioned)
    (captioned / "0.txt").write_text("a disc")
    start = tmp_path / "start.safetensors"
    save_file({"clip_l": torch.ones(2, 32)}, start)
    return stop_at(2, settings_for(checkpoint, captioned, tmp_path, captions="txt", validate_every="2"))


def change_weights(path: Path) -> None:
    """The same names, shapes and size: only the header's hash would not tell."""
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, path)


def other_checkpoint(path: Path) -> None:
    weights = load_file(path)
    save_file({**weights, "extra": torch.zeros(3)}, path)


CHANGES = {
    "checkpoint of another size": (lambda run: other_checkpoint(run.settings.model), "the checkpoint is another file"),
    "checkpoint of other content": (lambda run: change_weights(run.settings.model), "the checkpoint has other content"),
    "yaml": (lambda run: _append(run.settings.model.with_suffix(".yaml"), "\n# note\n"), ".yaml of the checkpoint is another"),
    "picture removed": (lambda run: (run.images / "0002.png").unlink(), "picture 0002.png is gone"),
    "picture added": (
        lambda run: shutil.copy(run.images / "0002.png", run.images / "0009.png"), "picture 0009.png is new",
    ),
    "picture changed": (
        lambda run: shutil.copy(run.images / "0002.png", run.images / "0001.png"), "picture 0001.png is another file",
    ),
    "caption": (lambda run: (run.images / "0000.txt").write_text("a cube"), "picture 0000.txt has other content"),
    "caption removed": (lambda run: (run.images / "0000.txt").unlink(), "picture 0000.txt is gone"),
    "templates": (lambda run: _append(run.templates, "a [name]\n"), "the list of templates is another file"),
}  # fmt: skip


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.faults("checkpoint, picture or template changed before a resume")
@pytest.mark.parametrize("change", CHANGES)
def test_changed_input_is_refused_with_the_reason(stopped, change, capsys):
    make, reason = CHANGES[change]
    make(stopped)
    events = stopped.events.read_bytes()
    assert main(["resume", str(stopped.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "Put everything back as it was, or go on all the same with `resume --force`" in line
    assert stopped.events.read_bytes() == events, "nothing has happened"


@pytest.mark.parametrize("change", ["checkpoint of other content", "picture removed"])
def test_force_goes_on_and_the_metadata_say_so(stopped, change):
    make, _ = CHANGES[change]
    make(stopped)
    assert main(["resume", str(stopped.path), "--force"]) == 0
    title = {"picture": "pictures", "templates": "list of templates"}.get(change.split()[0], "checkpoint")
    for file in (stopped.embedding, stopped.settings.out / "my-mug.safetensors"):
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata()["changed_inputs"] == f"other {title} from step 2 on"
    assert main(["resume", str(stopped.path), "--steps", "8"]) == 0, "what was accepted is not asked for again"


def test_unchanged_run_resumes_without_a_word_in_its_metadata(stopped):
    assert main(["resume", str(stopped.path)]) == 0
    with safe_open(stopped.embedding, framework="pt") as opened:
        assert "changed_inputs" not in opened.metadata()


def test_checkpoint_that_was_replaced_while_the_run_waited(checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(checkpoint, pictures, tmp_path)))
    change_weights(checkpoint)
    with pytest.raises(BadInput, match="the checkpoint has other content"):
        execute_run(folder)
    assert folder.history().last.kind == "failed"


def test_run_without_a_manifest_resumes(stopped):
    stopped.inputs.unlink()
    assert main(["resume", str(stopped.path)]) == 0
    assert set(Manifest.read(stopped.inputs).sections) == {"model", "template_file", "images"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"sections": {"model": 3}, "changes": []}', '{"sections": []}', "\x00"]
)
def test_damaged_manifest_is_named(stopped, text):
    stopped.inputs.write_text(text)
    with pytest.raises(UnusableFile, match=r"inputs.json: it is damaged; delete it to go on"):
        resume(stopped, {})


def test_embedding_that_a_run_starts_from(checkpoint, pictures, tmp_path, stopped):
    assert main(["resume", str(stopped.path)]) == 0
    start = stopped.embedding
    folder = stop_at(2, settings_for(checkpoint, pictures, tmp_path, name="second", init_embedding=str(start)))
    weights = load_file(folder.init_embedding)
    save_file({key: value * 2 for key, value in weights.items()}, folder.init_embedding)
    with pytest.raises(BadInput, match="the embedding it starts from"):
        resume(folder, {})


def test_folder_of_a_checkpoint(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, vocabulary=500)
    section = section_of(folder)
    assert "unet/config.json" in section
    (folder / "README.md").write_text("about it")
    assert section_of(folder) == section
    _append(folder / "unet" / "config.json", " ")
    difference = Manifest({"model": section}).differences({"model": section_of(folder)})
    assert len(difference["model"]) == 1
    assert "unet/config.json of the checkpoint is another file" in difference["model"][0]


def test_large_files_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "WHOLE_BYTES", 1 << 20)
    file = tmp_path / "large.ckpt"
    data = bytearray(40 << 20)
    file.write_bytes(data)
    before = fingerprint(file)
    for position in (0, 1000, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[position : position + (1 << 18)] = b"\x01" * len(changed[position : position + (1 << 18)])
        file.write_bytes(changed)
        assert fingerprint(file) != before


# --- on another machine --------------------------------------------------------------------------------------------


@pytest.mark.faults("run folder copied to another machine")
def test_run_folder_copied_to_another_machine(stopped, checkpoint, tmp_path, capsys):
    """Every path of its settings is another there; the run says what it misses, and ends with the same bytes."""
    copy = tmp_path / "other machine" / "runs" / "my-mug" / stopped.path.name
    shutil.copytree(stopped.path, copy)
    assert main(["resume", str(stopped.path)]) == 0
    expected = stopped.embedding.read_bytes()

    moved = tmp_path / "other machine" / checkpoint.name
    for suffix in (".safetensors", ".yaml"):
        shutil.move(checkpoint.with_suffix(suffix), moved.with_suffix(suffix))
    for gone in ("out", "pictures", "runs"):
        shutil.rmtree(tmp_path / gone)
    capsys.readouterr()
    assert main(["resume", str(copy)]) == 2
    assert "say with --model where it is now" in capsys.readouterr().err
    out = tmp_path / "other machine" / "words"
    other = write_checkpoint(tmp_path / "other.safetensors", SIZES["small"])
    change_weights(other)
    assert main(["resume", str(copy), "--model", str(other), "--out", str(out)]) == 2
    assert "the checkpoint has other content" in capsys.readouterr().err
    assert main(["resume", str(copy), "--model", str(moved), "--out", str(out)]) == 0
    assert (out / "my-mug.safetensors").read_bytes() == expected
    assert json.loads((copy / "settings.json").read_text())["settings"]["model"] == str(moved)
