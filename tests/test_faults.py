"""Faults, provoked for real: whatever a training loses, it goes on and ends as it would have.

`python run.py test --faults` does each of them as often as docs/reliability.md says.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from reference.trainings import settings_for

from lib_ti.cli import main
from lib_ti.errors import BadInput, TrainingFailed
from lib_ti.practice import concepts
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.listing import find_runs
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.queue_record import Entry, QueueRecord
from lib_ti.runs.resume import resume
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.preflight import preflight

PRACTICE = Path(concepts.__file__).parent / "model" / "practice.safetensors"
COIN = Path(concepts.__file__).parent / "concepts" / "coin"
ROOT = Path(__file__).resolve().parents[1]


def short_training(folder: Path, **more: str) -> TrainSettings:
    """Of the practice model, with outputs and so saves all along."""
    return settings_for(
        PRACTICE, COIN, folder,
        **{"steps": "8", "snapshot_every": "2", "validate_every": "0", **more},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, bytes, float]:
    """What a training ends with that nothing happens to: its embedding and its state; and its seconds."""
    folder = create_run(preflight(short_training(tmp_path_factory.mktemp("whole"))))
    started = time.monotonic()
    assert execute_run(folder)
    return folder.embedding.read_bytes(), folder.state.read_bytes(), time.monotonic() - started


def check_result(folder: RunFolder, whole: tuple[bytes, bytes, float]) -> None:
    assert folder.embedding.read_bytes() == whole[0]
    assert (folder.settings.out / "my-mug.safetensors").read_bytes() == whole[0]
    assert folder.state.read_bytes() == whole[1]
    assert not list(folder.path.rglob("*.part"))


def check_embeddings_folder(out: Path, embedding: bytes) -> None:
    """It never holds a half file, whatever has happened."""
    for path in out.glob("*") if out.is_dir() else ():
        assert path.suffix == ".png" or (path.name, path.read_bytes()) == ("my-mug.safetensors", embedding)


def train_in_child(path: Path) -> None:
    os._exit(0 if execute_run(RunFolder(path)) else 1)


@pytest.mark.faults("SIGKILL of the training at any moment")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, to be fast")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments(whole, tmp_path, fault_count, note):
    """Runs are killed again and again, until they are through; each ends with the bytes of an uninterrupted one."""
    wanted, rng, kills, runs = fault_count(2, 200), random.Random(14), 0, 0
    fork = multiprocessing.get_context("fork")
    while kills < wanted:
        (tmp_path / str(runs)).mkdir()
        folder = create_run(preflight(short_training(tmp_path / str(runs))))
        runs += 1
        while True:
            child = fork.Process(target=train_in_child, args=(folder.path,))
            child.start()
            child.join(rng.uniform(0, 1.1 * whole[2]) if kills < wanted else None)
            if not child.is_alive():
                break
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            check_embeddings_folder(folder.settings.out, whole[0])
            assert 0 <= folder.saved_step <= 8
            assert folder.summary()["state"] in ("interrupted", "finished")
        assert child.exitcode == 0
        check_result(folder, whole)
        shutil.rmtree(tmp_path / str(runs - 1))
    note(f"{kills} kills in {runs} runs, seed 14")


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, free_kb: int) -> Path:
    """Fill a disk but for some kB; the file that does."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        chunk = bytes(1 << 16)
        try:
            while True:
                file.write(chunk)
                file.flush()
        except OSError:
            pass
        size = file.seek(0, os.SEEK_END)
        file.truncate(max(0, size - (free_kb << 10)))
    return filler


@pytest.mark.faults("disk full at any write")
def test_disk_that_fills_up(whole, small_disk, fault_count, note, monkeypatch):
    """For more and more free space, so that each write is once the one that fails."""
    monkeypatch.setattr("lib_ti.training.preflight.output_paths.run_bytes", lambda *arguments: 0)
    failures, tries = 0, fault_count(3, 40)
    for i in range(tries):
        place = small_disk / str(i)
        place.mkdir()
        folder = create_run(preflight(short_training(place)))
        filler = fill(small_disk, free_kb=200 * i // tries)
        try:
            finished = execute_run(folder)
        except TrainingFailed as error:
            finished, message = False, str(error)
            failures += 1
        check_embeddings_folder(place / "out", whole[0])
        filler.unlink()
        if not finished:
            assert str(place) in message
            assert "is full" in message or "the new embedding is" in message
            assert folder.summary()["state"] in ("failed", "interrupted")
            resume(folder, {})
            assert execute_run(folder)
        check_result(folder, whole)
        shutil.rmtree(place)
    assert failures
    note(f"{failures} of {tries} runs met a full disk")


@pytest.mark.faults("disk full before the training starts")
def test_full_disk_is_named_before_anything_starts(small_disk):
    fill(small_disk, free_kb=64)
    with pytest.raises(BadInput, match=r"disk is too full|disk is full"):
        preflight(short_training(small_disk / "place"))


@pytest.mark.faults("folder that becomes read-only")
def test_read_only_folder(whole, small_disk, capsys):
    folder = create_run(preflight(short_training(small_disk)))
    seen = []
    assert not execute_run(folder, seen.append, lambda: any(e.data.get("step") == 3 for e in seen))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        TrainingFailed, match=r"cannot be written to \(Read-only file system\); change that, then resume"
    ):
        execute_run(folder)
    assert main(["resume", str(folder.path)]) == 2
    assert f"{folder.path} cannot be written to" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert main(["resume", str(folder.path)]) == 0
    check_result(folder, whole)


# --- devices, clocks, logs, terminals --------------------------------------------------------------------------------

DEVICE_ERRORS = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: an illegal memory access was encountered", "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "HIP error: the operation cannot be performed in the present state",
]  # fmt: skip


@pytest.mark.faults("error of the device")
@pytest.mark.parametrize("text", DEVICE_ERRORS)
def test_device_errors_are_said_and_cost_nothing(tiny_checkpoint, pictures, tmp_path, monkeypatch, text):
    from lib_ti.training import loop

    update, broken = loop.update, [True]

    def failing(state, *arguments):
        if state.step == 4 and broken:
            raise RuntimeError(text)
        return update(state, *arguments)

    monkeypatch.setattr(loop, "update", failing)
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, snapshot_every="3")))
    with pytest.raises(TrainingFailed) as failure:
        execute_run(folder)
    assert str(failure.value).startswith(f"the device reported an error ({text.splitlines()[0]}); resume the run")
    assert "\n" not in str(failure.value)
    assert folder.history().last.data["message"] == str(failure.value)
    assert folder.saved_step == 3
    broken.clear()
    assert execute_run(folder)
    assert folder.summary()["state"] == "finished"


@pytest.mark.faults("clock that goes backwards")
def test_clock_that_goes_backwards(whole, tmp_path, monkeypatch, capsys):
    now = [2e9]

    def backwards() -> float:
        now[0] -= 1000.0
        return now[0]

    folder = create_run(preflight(short_training(tmp_path)))
    monkeypatch.setattr("lib_ti.runs.events.time.time", backwards)
    seen = []
    assert not execute_run(folder, seen.append, lambda: any(e.data.get("step") == 3 for e in seen))
    assert execute_run(folder)
    check_result(folder, whole)
    assert folder.summary() | {"state": "finished", "step": 8} == folder.summary()
    assert "-" not in folder.report.read_text(encoding="utf-8").partition("trained for")[2][:12]
    (tmp_path / "more").mkdir()
    another = create_run(preflight(short_training(tmp_path / "more")))
    assert [run.path for run in find_runs(tmp_path / "more" / "runs")] == [another.path]


@pytest.mark.faults("torn event log")
def test_event_log_cut_anywhere(whole, tmp_path, fault_count):
    folder = create_run(preflight(short_training(tmp_path)))
    seen = []
    assert not execute_run(folder, seen.append, lambda: any(e.data.get("step") == 5 for e in seen))
    log, rng = folder.events.read_bytes(), random.Random(3)
    for _ in range(fault_count(20, 300)):
        folder.events.write_bytes(log[: rng.randrange(len(log))] + rng.randbytes(rng.choice([0, 0, 3])))
        summary = folder.summary()
        assert 0 <= summary["step"] <= 5
        json.dumps(summary, allow_nan=False)
    assert execute_run(folder)
    check_result(folder, whole)
    assert folder.summary()["state"] == "finished"


@pytest.mark.faults("terminal that is closed")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_closed_terminal_saves_and_stops(tmp_path):
    import pty

    settings = short_training(tmp_path, steps="100000", validate_every="0")
    folder = create_run(preflight(settings))
    ours, theirs = pty.openpty()
    training = subprocess.Popen(
        [sys.executable, "-m", "lib_ti", "resume", str(folder.path)],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        deadline = time.monotonic() + 120
        while folder.history().last_step() < 3:
            assert time.monotonic() < deadline
            assert training.poll() is None
            os.read(ours, 1 << 16)  # else the terminal's buffer fills up
        os.close(ours)
        for _ in range(2):  # from the shell, and from the terminal
            training.send_signal(signal.SIGHUP)
        assert training.wait(60) == 130
    finally:
        training.kill()
    assert folder.history().last.kind == "stopped"
    assert folder.saved_step == folder.history().last_step() == folder.history().last.data["step"]


# --- the queue -----------------------------------------------------------------------------------------------------


def queue_with_record(runs_dir: Path, release: threading.Event) -> RunQueue:
    """A queue whose jobs wait for `release`, as for a host that is generating."""

    @contextmanager
    def waiting(job):
        while not (release.is_set() or job.cancelled):
            time.sleep(0.01)
        yield None

    queue = RunQueue(waiting, record=QueueRecord(runs_dir))
    queue.restore()
    return queue


def queued_runs(checkpoint: Path, pictures: Path, folder: Path, count: int) -> list[RunFolder]:
    first = create_run(preflight(settings_for(checkpoint, pictures, folder)))
    runs = [first]
    for i in range(1, count):
        path = first.path.with_name(f"2031-01-01T00-00-{i:03d}")
        shutil.copytree(first.path, path)
        runs.append(RunFolder(path))
    return runs


@pytest.mark.faults("restart of the host with 100 queued runs")
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_queue_survives_a_restart(tiny_checkpoint, pictures, tmp_path, how):
    runs, release = queued_runs(tiny_checkpoint, pictures, tmp_path, 100), threading.Event()
    queue = queue_with_record(tmp_path / "runs", release)
    started = time.process_time()
    for run in runs:
        queue.add(Job(run, keep_generating=run == runs[3]))
    assert time.process_time() - started < 10
    queue.move(runs[50].path, 1)
    expected = [job.folder.path for job in queue.jobs()]
    other = queue_with_record(tmp_path / "runs", release)
    assert other.jobs() == [], "of a program that lives nothing is taken over"
    if how == "closed":
        queue.close()
    else:
        queue._record.release()  # as the system does it
    restarted = queue_with_record(tmp_path / "runs", release)
    assert [job.folder.path for job in restarted.jobs()] == expected
    assert [job.folder for job in restarted.jobs() if job.keep_generating] == [runs[3]]
    for each in (queue, other, restarted):
        each._closed = True
    release.set()


def test_run_that_was_trained_when_the_host_was_killed_is_not_begun_again(tmp_path):
    """It may have been the reason."""
    record = QueueRecord(tmp_path)
    record.store([Entry("a/1", started=True), Entry("b/2"), Entry("../c/3"), Entry("b/.hidden")])
    record.release()
    assert QueueRecord(tmp_path).take_over() == [Entry("b/2")]
    assert QueueRecord(tmp_path).take_over() == [], "each is given out once"


@pytest.mark.parametrize("text", ["", "{", "3", "[3]", '[{"run": 1}]', "\x00"])
def test_damaged_queue_is_left_out(tmp_path, text):
    record = QueueRecord(tmp_path)
    record.store([Entry("a/1")])
    (tmp_path / ".queue" / "0.json").write_text(text)
    record.release()
    assert QueueRecord(tmp_path).take_over() == []


@pytest.mark.faults("two WebUIs on one folder of runs")
def test_run_that_another_program_trains_is_left_alone(tiny_checkpoint, pictures, tmp_path):
    (run,) = queued_runs(tiny_checkpoint, pictures, tmp_path, 1)
    lock = run.lock
    lock.acquire()  # as the other program has it
    try:
        queue = RunQueue(lambda job: nullcontext(lambda: False))
        queue.add(Job(run))
        deadline = time.monotonic() + 60
        while queue.jobs():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        lock.release()
    assert run.history().last.kind == "queued", "the log says nothing of a failure"
    assert execute_run(run)
