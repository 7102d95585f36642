"""Runs and embeddings of earlier versions: they resume to what that version would have made, and what they hold is readable.

`golden/old_runs` was written by version 0.1.0 (see golden/README.md): run folders that were stopped, killed or finished midway,
the embedding that each training ends with when nothing interrupts it, and `expected.json`, which describes them.
"""

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file

from lib_ti.cli import main
from lib_ti.runs.folder import RunFolder

OLD_RUNS = Path(__file__).parent / "golden" / "old_runs"
EXPECTED = json.loads((OLD_RUNS / "expected.json").read_text(encoding="utf-8"))
RUNS: dict[str, Any] = EXPECTED["runs"]
PRACTICE = Path(__file__).parents[1] / "lib_ti" / "practice" / "model" / "practice.safetensors"
PATH_OPTIONS = {"images", "model", "vae", "out", "runs_dir", "template_file", "init_embedding"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints that the runs were trained on, by their names in expected.json."""
    folder = tmp_path_factory.mktemp("checkpoints")
    sizes = {"sd1": "small", "sd2": "sd2", "sdxl": "sdxl"}
    tiny = {name: write_checkpoint(folder / f"{name}.safetensors", SIZES[size]) for name, size in sizes.items()}
    return {**tiny, "practice": PRACTICE}


def restore(name: str, folder: Path, checkpoint: Path) -> RunFolder:
    """A copy of an old run, moved to this machine: its settings name the checkpoint and the output folder here."""
    run = folder / "runs" / "my-mug" / "2026-01-01T00-00-00"
    shutil.copytree(OLD_RUNS / name, run)
    record = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    record["settings"] |= {"model": str(checkpoint), "out": str(folder / "out"), "runs_dir": str(folder / "runs")}
    (run / "settings.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return RunFolder.open(run)


def computes_as_recorded(checkpoint: Path, sha256: str) -> bool:
    """Whether torch, processor and checkpoint are those that the expected bytes were computed with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    here = {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": models[0] if models else platform.processor(),
    }
    return here == EXPECTED["computed_with"] and hashlib.sha256(checkpoint.read_bytes()).hexdigest() == sha256


def metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return file.metadata() or {}


@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_ends_as_the_uninterrupted_one_did(checkpoints, tmp_path, name):
    expected, reference = RUNS[name], OLD_RUNS / f"{name}.safetensors"
    checkpoint = checkpoints[expected["checkpoint"]]
    folder = restore(name, tmp_path, checkpoint)
    assert folder.saved_step <= expected["step"]
    assert main(["resume", str(folder.path), "--steps", str(expected["steps"]), "--json"]) == 0
    assert folder.summary()["state"] == "finished"
    assert (tmp_path / "out" / "my-mug.safetensors").read_bytes() == folder.embedding.read_bytes()

    recorded = metadata(reference)
    exact = computes_as_recorded(checkpoint, recorded["checkpoint_sha256"])
    if exact:
        assert hashlib.sha256(folder.embedding.read_bytes()).hexdigest() == expected["sha256"]
    # Another torch or processor rounds differently, also the tiny checkpoints' random weights.
    recorded["checkpoint_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert metadata(folder.embedding) == recorded
    vectors, recorded_vectors = load_file(folder.embedding), load_file(reference)
    assert vectors.keys() == recorded_vectors.keys()
    for key, recorded_value in recorded_vectors.items():
        difference = (vectors[key] - recorded_value).abs()
        assert float(difference.mean()) < 5e-5
        assert float(difference.max()) < 1e-3  # AdamW turns the rounding of a vanishing gradient into a step of its own
    timeline = folder.history()
    assert list(timeline.steps) == list(range(1, expected["steps"] + 1))
    losses = [event.data["loss"] for event in timeline.steps.values()]
    assert losses == pytest.approx(expected["losses"], rel=0 if exact else 1e-3)


def test_finished_run_has_nothing_to_resume(checkpoints, tmp_path, capsys):
    folder = restore("finished", tmp_path, checkpoints["sd1"])
    (tmp_path / "out").mkdir()
    shutil.copy(folder.embedding, tmp_path / "out" / "my-mug.safetensors")
    assert main(["resume", str(folder.path)]) == 0
    assert "finished at step 6" in capsys.readouterr().err
    assert folder.events.read_bytes() == (OLD_RUNS / "finished" / "events.jsonl").read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_stored_settings_are_read_as_they_were_written(name):
    stored = json.loads((OLD_RUNS / name / "settings.json").read_text(encoding="utf-8"))["settings"]
    settings = RunFolder.open(OLD_RUNS / name).settings.to_json()
    assert stored.keys() <= settings.keys()
    assert [settings[option] for option in ("validate_every", "early_stop", "keep")] == [0, False, "last"]
    for option, value in stored.items():
        if option in PATH_OPTIONS and value is not None:
            assert Path(settings[option]) == Path(value)
        else:
            assert settings[option] == value


def test_values_of_speed_and_memory_options_are_kept():
    assert RunFolder.open(OLD_RUNS / "arranged").settings.acceleration == "arranged"
    assert RunFolder.open(OLD_RUNS / "low").settings.memory == "low"
    assert RunFolder.open(OLD_RUNS / "sdxl").settings.learning_rate == "0.005:4, 1e-3:8, 1e-4"


@pytest.mark.parametrize("name", RUNS)
def test_events_are_readable_as_a_timeline(name):
    folder, expected = RunFolder.open(OLD_RUNS / name), RUNS[name]
    timeline, settings = folder.history(), folder.settings
    assert list(timeline.steps) == list(range(1, expected["step"] + 1))
    losses = [event.data["loss"] for event in timeline.steps.values()]
    if expected["state"] != "finished":  # a longer training has other learning rates from the start
        assert losses == expected["losses"][: len(losses)]
    assert timeline.memory is not None
    assert timeline.memory.data["mode"] == settings.memory
    assert timeline.memory.data["acceleration"] == settings.acceleration
    for event in (*timeline.previews.values(), *timeline.snapshots.values()):
        assert (folder.path / event.data["file"]).is_file()
    previews = {"sd1": {(0, 0, 0), (0, 1, 0)}, "practice": {(0, 0, 0), (0, 1, 0)}}
    assert timeline.previews.keys() == previews.get(name, set())
    snapshots = {"sd1": [5], "arranged": [5], "finished": [4, 6]}
    assert list(timeline.snapshots) == snapshots.get(name, [])
    assert all(event.time > 1.7e9 for event in timeline.steps.values())


def test_old_runs_are_listed_with_their_states(tmp_path, capsys):
    for name in RUNS:
        shutil.copytree(OLD_RUNS / name, tmp_path / "my-mug" / name)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    listed = {Path(run["folder"]).name: run for run in map(json.loads, capsys.readouterr().out.splitlines())}
    for name, expected in RUNS.items():
        assert listed[name]["state"] == expected["state"]
        assert listed[name]["step"] == expected["step"]
        assert listed[name]["checkpoint"] == f"{expected['checkpoint']}.safetensors"


@pytest.mark.parametrize("file", EXPECTED["embeddings"])
def test_old_embeddings_are_described_as_before(file, capsys):
    expected = EXPECTED["embeddings"][file]
    assert main(["inspect", str(OLD_RUNS / file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for encoder, vectors in expected["encoders"].items():
        norms = [vector["norm"] for vector in report["encoders"][encoder]["vectors"]]
        assert norms == pytest.approx([vector["norm"] for vector in vectors["vectors"]], abs=2e-4)
    assert report["encoders"].keys() == expected["encoders"].keys()
    for key in expected.keys() - {"encoders"}:
        assert report[key] == expected[key]


def test_interrupted_run_goes_on_from_a_state_behind_its_last_event():
    """A kill leaves the last steps unsaved and the last line torn."""
    folder = RunFolder.open(OLD_RUNS / "arranged")
    assert not folder.events.read_bytes().endswith(b"\n")
    assert folder.saved_step < max(folder.history().steps)
