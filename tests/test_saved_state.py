"""Saved states: whatever happens to one it is never used wrongly, and the one before it takes its place."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reference.trainings import settings_for

from lib_ti import files
from lib_ti.cli import main
from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_safetensors_header, replace_metadata
from lib_ti.formats.safetensors_tensors import read_tensors, safetensors_bytes
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.resuming.state_record import read_state_record, sign
from lib_ti.training.state import TrainState


@pytest.fixture(scope="module")
def stopped(tiny_checkpoint, pictures, tmp_path_factory):
    """A run that was stopped at step 4 of 6, and has a state of step 2 as well; and the embedding that it ends with."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = settings_for(tiny_checkpoint, pictures, folder, validate_every="2")
    run = create_run(preflight(settings))
    for stop_at in (2, 4):
        seen = []
        steps = lambda seen=seen: [e.data["step"] for e in seen if e.kind == "step"]  # noqa: E731
        assert not execute_run(run, seen.append, lambda steps=steps, at=stop_at: at in steps())
    states = {path: path.read_bytes() for path in (run.state, run.previous_state)}
    assert execute_run(run)
    whole = run.embedding.read_bytes()
    return run, states, whole


@pytest.fixture
def restore(stopped):
    """The stopped run, with the content of its last state replaced: a function of that content."""
    run, states, _ = stopped

    def damage(last: bytes | None, previous: bytes | None = None) -> RunFolder:
        for path in (run.state, run.previous_state, run.embedding, run.settings.out / "my-mug.safetensors"):
            path.unlink(missing_ok=True)
        for path, data in zip(
            states, (last, states[run.previous_state] if previous is None else previous), strict=True
        ):
            if data:
                path.write_bytes(data)
        return run

    return damage


@pytest.mark.faults("saved state cut or changed at any byte")
@given(data=st.data())
@hypothesis_settings(max_examples=200)
def test_any_changed_byte_is_noticed(stopped, tmp_path_factory, data):
    run, states, _ = stopped
    state = bytearray(states[run.state])
    position = data.draw(st.integers(0, len(state) - 1))
    state[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(state)
    with pytest.raises(UnusableFile, match="the saved state is damaged"):
        read_state_record(path)


@pytest.mark.faults("saved state cut or changed at any byte")
@given(st.integers(0, 100_000), st.binary(max_size=9))
@example(0, b"")
def test_any_cut_is_noticed(stopped, tmp_path_factory, length, tail):
    run, states, _ = stopped
    state = states[run.state]
    content = state[: length % len(state)] + tail
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(content)
    if content != state:
        with pytest.raises(UnusableFile, match="the saved state is damaged"):
            read_state_record(path)


@pytest.mark.faults("saved state cut or changed at any byte")
@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_state_before_a_damaged_one_is_used_and_said(stopped, restore, damage, capsys):
    run, states, whole = stopped
    last = states[run.state]
    flipped = bytearray(last)
    flipped[-3] ^= 1
    content = {"bit": bytes(flipped), "cut": last[:-7], "missing": None}[damage]
    before = len(run.history().warnings)
    folder = restore(content)
    assert folder.saved_step == 2
    assert main(["resume", str(folder.path)]) == 0
    assert folder.embedding.read_bytes() == whole
    warnings = [event.data["message"] for event in folder.history().warnings][before:]
    said = [w for w in warnings if "the training goes on from the state before it, of step 2" in w]
    assert len(said) == (0 if damage == "missing" else 1)
    assert read_state_record(folder.previous_state)["step"] in (2, 4), (
        "a damaged state never takes the place of a whole one"
    )


def test_without_a_whole_state_the_reason_is_said(stopped, restore, capsys):
    folder = restore(b"not a state", b"neither")
    assert main(["resume", str(folder.path)]) == 2
    message = capsys.readouterr().err
    assert "state.safetensors: the saved state is damaged" in message
    assert "start a new training, from one of this run's snapshots" in message
    assert "Traceback" not in message


IMPOSSIBLE = {
    "step": [-5, 1.5, float("inf"), float("nan"), "3", None, True, [3], 10**30],
    "smoothed": [float("nan"), float("-inf"), "0.1", None, []],
    "shown": [-1, 99, "2", 1.5],
    "averaged": [-1, 0.5, "x", 99],
    "scaler": [{}, None, {"scale": float("nan"), "quiet": 0, "overflows": 0}, {"scale": 0, "quiet": 0, "overflows": 0}],
    "validated": [[], [4, 2], [0, 99], ["0"], {"0": 1}, [0, 0.5]],
    "recovery": [[], {"points": [{}]}, {"points": 3}, {"rate_factor": float("nan")}, {"failures": -1}, {"other": 1}],
    "warned": ["norm", [1]],
    "early_end": [1, None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in IMPOSSIBLE.items() for value in values])
@pytest.mark.parametrize("signed", [True, False])
def test_impossible_records_are_refused(stopped, tmp_path, key, value, signed):
    """Also where the checksum is right, or missing as in old states."""
    run, states, _ = stopped
    state = states[run.state]
    path = tmp_path / "state.safetensors"
    path.write_bytes(state)
    metadata = read_safetensors_header(path).metadata
    record = json.dumps(json.loads(metadata["state"]) | {key: value})
    path.write_bytes(
        sign(replace_metadata(state, {"state": record, "sha256": "0" * 64}))
        if signed
        else replace_metadata(state, {"state": record})
    )
    with pytest.raises(UnusableFile, match="the saved state is damaged"):
        read_state_record(path)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("start.clip_l", lambda t: t * torch.nan), ("vectors.clip_l", lambda t: t / 0), ("vectors.clip_l", None),
        ("start.clip_l", None), ("vectors.clip_l", lambda t: t[:1]), ("vectors.clip_l", lambda t: t.to(torch.int64)),
        ("adam.clip_l.exp_avg", lambda t: t[:, :3]), ("adam.clip_l.exp_avg_sq", lambda t: -1 - t),
        ("adam.clip_l.step", lambda t: t * torch.inf), ("best.clip_l", lambda t: t * torch.nan),
        ("validation.losses", lambda t: t[:1]), ("validation.losses", None), ("point0.vectors.clip_l", lambda t: t * torch.nan),
    ],
)  # fmt: skip
def test_impossible_tensors_are_refused(stopped, tmp_path, key, change):
    """As somebody's script may write them, without a checksum."""
    run, states, _ = stopped
    path = tmp_path / "state.safetensors"
    path.write_bytes(states[run.state])
    tensors, record = read_tensors(path), read_safetensors_header(path).metadata["state"]
    state = TrainState.create(run.settings, {"clip_l": tensors["start.clip_l"]})
    if change:
        tensors[key] = change(tensors[key])
    else:
        del tensors[key]
    path.write_bytes(safetensors_bytes(tensors, {"state": record}))
    with pytest.raises(UnusableFile, match=r"the saved state is damaged: .*(clip_l|validation)"):
        state.load(path)
    assert state.step == 0
    assert torch.equal(state.vectors["clip_l"], state.initial_vectors["clip_l"])


@pytest.mark.faults("saved state cut or changed at any byte")
def test_state_before_one_of_nan_is_used_and_said(stopped, restore):
    """An old state, without a checksum, whose start is not a number."""
    run, states, whole = stopped
    folder = restore(states[run.state])
    tensors, record = read_tensors(folder.state), read_safetensors_header(folder.state).metadata["state"]
    tensors["start.clip_l"] = tensors["start.clip_l"] * torch.nan
    folder.state.write_bytes(safetensors_bytes(tensors, {"state": record}))
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole
    assert any(
        "start.clip_l holds what is not a number" in event.data["message"] for event in folder.history().warnings
    )


def test_states_without_a_checksum_are_read(stopped, restore):
    """Those of earlier versions."""
    run, states, whole = stopped
    folder = restore(states[run.state])
    record = read_safetensors_header(folder.state).metadata["state"]
    folder.state.write_bytes(replace_metadata(states[run.state], {"state": record}))
    assert folder.saved_step == 4
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole


def test_a_state_that_is_not_finite_is_not_written(stopped):
    run, _, _ = stopped
    vectors = {"clip_l": torch.ones(2, 4)}
    state = TrainState.create(run.settings, vectors)
    state.loss_average = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        state.to_bytes()


# --- what is on the disk after a power cut ------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """What was synced and renamed, in order: names, and "folder" for a folder."""
    made = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        made.append(("sync", "folder" if path.is_dir() else path.name))
        fsync(descriptor)

    def recording_replace(source, target):
        made.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    return made


@pytest.mark.faults("power cut")
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are read from /proc")
def test_what_counts_is_on_the_disk_before_it_gets_its_name(calls, tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, snapshot_every="3")))
    assert ("sync", "templates.txt") in calls
    execute_run(folder)
    for name in ("state.safetensors", "my-mug.safetensors", "embedding.safetensors", "settings.json", "3.safetensors"):
        positions = [i for i, call in enumerate(calls) if call == ("replace", name)]
        assert positions, name
        for i in positions:
            assert calls[i - 1][0] == "sync"
            assert calls[i - 1][1].startswith(f".{name}.")
            assert calls[i + 1] == ("sync", "folder")
    images = calls.index(("replace", "images"))
    assert {("sync", f"000{i}.png") for i in range(4)} < set(calls[:images])
    assert calls[images - 1] == calls[images + 1] == ("sync", "folder")


def test_the_embeddings_folder_gets_no_temporary_files(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    sync_file, seen = files.sync_file, []

    def look(path):
        seen.extend(p.name for p in (tmp_path / "out").glob("*"))
        sync_file(path)

    monkeypatch.setattr(files, "sync_file", look)
    execute_run(folder)
    assert set(seen) <= {"my-mug.safetensors"}


def test_leftovers_of_a_killed_training_are_removed(tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    (folder.path / "snapshots").mkdir()
    for place in (folder.path, folder.path / "snapshots"):
        (place / ".state.safetensors.123.part").write_bytes(b"half")
    execute_run(folder)
    assert not list(folder.path.rglob("*.part"))
