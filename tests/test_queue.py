"""The queue: order, stopping, and failures of workers, run folders and the host."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from lib_ti.errors import TextualInversionError
from lib_ti.runs import worker as worker_module
from lib_ti.runs.events import TERMINAL_KINDS, read_events
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.hosts.gpu_handover import GpuHandover
from lib_ti.webui.hosts.host import CheckpointChoice

ROOT = Path(__file__).resolve().parent.parent

FAKE_WORKER = """
import json, os, sys, threading, time

request = json.loads(sys.stdin.readline())
if "settings" in request:
    sys.path.insert(0, os.getcwd())
    from lib_ti.runs.folder import RunFolder
    from lib_ti.settings.parsing import parse

    settings, problems = parse(request["settings"])
    if problems:
        print(json.dumps({"problems": [{"option": p.option, "message": p.message} for p in problems]}), flush=True)
        os._exit(0)
    how = json.dumps({"steps": settings.steps}).encode()
    folder = str(RunFolder.create(settings, {"how.json": how}).path)
else:
    folder = request["run"]
how = json.load(open(folder + "/how.json"))
stop, going = threading.Event(), threading.Event()

def listen():
    for line in sys.stdin:
        if line.strip() == "go":
            going.set()
        if line.strip() == "stop":
            break
    stop.set()
    going.set()

def event(kind, **data):
    with open(folder + "/events.jsonl", "a") as file:
        file.write(json.dumps({"kind": kind, "time": time.time(), **data}) + chr(10))

open(folder + "/pid", "w").write(str(os.getpid()))
time.sleep(how.get("starts_for_s", 0))
if how.get("greets"):
    print("Some library welcomes you", flush=True)
if "refuses" in how:
    print(json.dumps({"error": how["refuses"]}), flush=True)
    os._exit(0)
print(json.dumps({"run": folder, "warnings": []}), flush=True)
threading.Thread(target=listen, daemon=True).start()
going.wait()
if stop.is_set():
    os._exit(130)
event("loading", checkpoint="", folder=folder)
for step in range(1, how.get("steps", 3) + 1):
    if stop.is_set():
        event("stopped", step=step - 1)
        os._exit(130)
    event("step", step=step, steps=how.get("steps", 3))
    time.sleep(0.02)
if "complains" in how:
    print(how["complains"], file=sys.stderr, flush=True)
    os._exit(3)
event("finished", step=step, file="")
os._exit(0)
"""
"""Speaks the worker's protocol, but starts at once and trains nothing. `how.json` in the run folder configures it."""


class FakeHost:
    """A host. `fails` names the calls that raise; `wants_stop` is its Interrupt."""

    title = "stand-in"
    hides_paths = False
    keep_snapshots = True
    keep_images = True

    def __init__(self, folder: Path, checkpoint: Path | None = None) -> None:
        self.lock = threading.Lock()
        self.embeddings_dir, self.runs_dir = folder / "embeddings", folder / "textual_inversion"
        self.embeddings_dir.mkdir()
        self.checkpoint = checkpoint
        self.fails: set[str] = set()
        self.wants_stop = threading.Event()
        self.lent_for: list[str] = []
        self.is_gpu_lent = False
        self.reloaded_names: list[str] = []
        self.clip_layer = 1

    def selected_checkpoint(self) -> CheckpointChoice | None:
        return CheckpointChoice("tiny.safetensors [0123]", self.checkpoint) if self.checkpoint else None

    def selected_vae(self) -> Path | None:
        return None

    def device(self) -> str:
        return "cpu"

    def precision(self) -> str:
        return "fp32"

    def captioners(self):
        return {"blip": "In sentences"}

    @contextmanager
    def captioner(self, name):
        assert self.lock.locked()
        if name in self.fails:
            raise RuntimeError(f"{name} has no weights")
        yield lambda image: f"a picture of {image.width} pixels"

    def clip_skip(self) -> int:
        return self.clip_layer

    @contextmanager
    def gpu_lent(self, name):
        assert self.lock.locked()
        if "lend" in self.fails:
            raise RuntimeError("the model cannot leave")
        self.lent_for.append(name)
        self.is_gpu_lent = True
        try:
            yield self._interrupted
        finally:
            self.is_gpu_lent = False
            if "return" in self.fails:
                raise RuntimeError("the model cannot come back")

    def _interrupted(self) -> bool:
        if "interrupt" in self.fails:
            raise RuntimeError("nobody knows")
        return self.wants_stop.is_set()

    def reload_embeddings(self, names) -> None:
        assert self.lock.locked()
        self.reloaded_names += names
        if "reload" in self.fails:
            raise RuntimeError("the list is broken")


def until(condition, timeout_s: float = 10.0):
    """Poll until the condition is true; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.03)
    return value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def event_kinds(folder: RunFolder) -> list[str]:
    return [event.kind for event in read_events(folder.events)[0]]


def queue_positions(folder: RunFolder) -> list[int]:
    return [event.data["place"] for event in read_events(folder.events)[0] if event.kind == "queued"]


def pid_of(folder: RunFolder) -> int:
    until((folder.path / "pid").exists)
    return int(until((folder.path / "pid").read_text))


def terminal_event(folder: RunFolder):
    return next((event for event in reversed(read_events(folder.events)[0]) if event.kind in TERMINAL_KINDS), None)


@pytest.fixture
def host(tmp_path):
    return FakeHost(tmp_path)


@pytest.fixture
def handover(host):
    return GpuHandover(host)


@pytest.fixture
def ended():
    return []


@pytest.fixture
def queue(handover, ended, monkeypatch):
    monkeypatch.setattr(worker_module, "_program", lambda: FAKE_WORKER)
    queue = RunQueue(handover.gpu_context, lambda job: ended.append(job.folder.path.parent.name))
    yield queue
    queue.close(5)


@pytest.fixture
def run(host):
    """Creates run folders, configured for the fake worker."""

    def create(name: str = "my-mug", **how: object) -> RunFolder:
        raw_settings = {
            "images": "x",
            "model": "x",
            "name": name,
            "out": str(host.embeddings_dir),
            "runs_dir": str(host.runs_dir),
        }
        settings, _ = parse(raw_settings)
        return RunFolder.create(settings, {"how.json": json.dumps(how).encode()})

    return create


@pytest.fixture
def wait_until_idle(queue, host, handover):
    """Waits until the queue is empty, and checks that the host has its lock and GPU back."""

    def wait() -> None:
        until(lambda: not queue.jobs())
        until(lambda: not host.lock.locked())
        assert not host.is_gpu_lent
        assert handover.current_job is None

    return wait


ENDLESS = 100_000


# --- the order ---------------------------------------------------------------------------------------------------


def test_jobs_run_in_order(queue, run, host, ended, wait_until_idle):
    folders = [run(name) for name in ("one", "two", "three")]
    for folder in folders:
        queue.add(Job(folder))
    assert [job.folder for job in queue.jobs()] == folders
    wait_until_idle()
    assert [event_kinds(folder)[-1] for folder in folders] == ["finished"] * 3
    assert ended == host.lent_for == host.reloaded_names == ["one", "two", "three"]
    times = [[e.time for e in read_events(folder.events)[0] if e.kind != "queued"] for folder in folders]
    assert all(earlier[-1] <= later[0] for earlier, later in pairwise(times))


def test_queued_events_record_position_changes(queue, run, host, wait_until_idle):
    folders = [run(name) for name in ("one", "two", "three", "four")]
    with host.lock:
        for folder in folders:
            queue.add(Job(folder))
        assert [queue_positions(folder) for folder in folders] == [[0], [1], [2], [3]]
        queue.stop(folders[1].path)
        assert [queue_positions(folder) for folder in folders] == [[0], [1], [2, 1], [3, 2]]
    wait_until_idle()
    assert queue_positions(folders[3]) == [3, 2, 1]


def test_concurrent_adds_are_all_queued(queue, run, wait_until_idle):
    folders = [run(f"word-{i}", steps=1) for i in range(8)]
    threads = [threading.Thread(target=queue.add, args=(Job(folder),)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until_idle()
    assert [event_kinds(folder).count("finished") for folder in folders] == [1] * 8


def test_only_the_first_job_keeps_a_started_worker(queue, run, wait_until_idle):
    first, second = run("one", steps=ENDLESS), run("two")
    warm = [worker_module.Worker({"run": str(folder.path)}) for folder in (first, second)]
    for worker in warm:
        worker.reply()
    queue.add(Job(first, worker=warm[0]))
    queue.add(Job(second, worker=warm[1]))
    assert warm[1].exit_code(5) is not None
    assert warm[0].running
    queue.stop(first.path)
    wait_until_idle()
    assert event_kinds(second)[-1] == "finished", "with a process of its own"


# --- stopping ----------------------------------------------------------------------------------------------------


def test_stop_a_queued_job(queue, run, host, ended, wait_until_idle):
    first, second, third = run("one", steps=30), run("two"), run("three")
    for folder in (first, second, third):
        queue.add(Job(folder))
    assert queue.stop(second.path)
    assert [job.folder for job in queue.jobs()] == [first, third]
    assert event_kinds(second) == ["queued", "stopped"]
    assert not queue.stop(second.path), "it is not queued any more"
    wait_until_idle()
    assert (event_kinds(first)[-1], event_kinds(third)[-1]) == ("finished", "finished")
    assert ended == ["one", "three"]


def test_stop_an_unknown_job(queue, tmp_path):
    assert not queue.stop(tmp_path)
    assert queue.find(tmp_path) is None


@pytest.mark.parametrize("warm", [False, True])
def test_stop_while_waiting_for_the_host(queue, run, host, ended, handover, warm):
    folder = run()
    worker = worker_module.Worker({"run": str(folder.path)}) if warm else None
    if worker:
        worker.reply()
    with host.lock:
        queue.add(Job(folder, worker=worker))
        time.sleep(0.05)
        assert handover.current_job is None
        assert queue.stop(folder.path)
        until(lambda: not queue.jobs())
        assert event_kinds(folder) == ["queued", "stopped"]
        assert host.lock.locked(), "the host still holds it"
    assert host.lent_for == ended == []
    assert not worker or worker.exit_code(5) is not None


def test_stop_while_the_worker_starts(queue, run, host, wait_until_idle):
    folder = run(starts_for_s=0.6)
    queue.add(Job(folder))
    pid_of(folder)
    assert queue.stop(folder.path)
    wait_until_idle()
    assert event_kinds(folder) == ["queued", "stopped"]


def test_stop_a_running_job(queue, run, wait_until_idle):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in event_kinds(folder))
    assert queue.stop(folder.path)
    assert queue.stop(folder.path), "pressed twice"
    wait_until_idle()
    assert [kind for kind in event_kinds(folder) if kind in TERMINAL_KINDS] == ["stopped"]


def test_host_interrupt_stops_the_job(queue, run, host, wait_until_idle):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in event_kinds(folder))
    host.wants_stop.set()
    wait_until_idle()
    assert event_kinds(folder)[-1] == "stopped"


def test_close_stops_all_jobs_and_refuses_new_ones(queue, run, wait_until_idle):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in event_kinds(first))
    queue.close(10)
    assert event_kinds(first)[-1] == event_kinds(second)[-1] == "stopped"
    assert not alive(pid_of(first))
    with pytest.raises(TextualInversionError, match="closing"):
        queue.add(Job(run("three")))
    wait_until_idle()
    queue.close(10)


# --- workers that fail ----------------------------------------------------------------------------------------


def test_killed_worker_is_recorded_as_out_of_memory(queue, run, wait_until_idle):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in event_kinds(first))
    os.kill(pid_of(first), signal.SIGKILL)
    wait_until_idle()
    assert event_kinds(first)[-1] == "failed"
    message = terminal_event(first).data["message"]
    assert "memory" in message
    assert "resume" in message
    assert event_kinds(second)[-1] == "finished"


def test_last_stderr_line_is_recorded(queue, run, wait_until_idle):
    folder = run(complains="libcuda.so.1: it is gone")
    queue.add(Job(folder))
    wait_until_idle()
    assert "libcuda.so.1: it is gone" in terminal_event(folder).data["message"]


def test_refused_request_is_recorded_as_failure(queue, run, wait_until_idle):
    first, second = run("one", refuses="the checkpoint of this run is not there any more"), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    wait_until_idle()
    assert terminal_event(first).data["message"] == "the checkpoint of this run is not there any more"
    assert event_kinds(second)[-1] == "finished"


def test_worker_that_cannot_start(queue, run, monkeypatch, wait_until_idle):
    monkeypatch.setattr(worker_module, "_program", lambda: "raise SystemExit('no torch here')")
    folder = run()
    queue.add(Job(folder))
    wait_until_idle()
    assert "no torch here" in terminal_event(folder).data["message"]


def test_library_output_before_the_reply_is_skipped(queue, run, wait_until_idle):
    """Some do when they are imported, and the host's environment is not ours to choose."""
    folder = run(greets=True)
    queue.add(Job(folder))
    wait_until_idle()
    assert event_kinds(folder)[-1] == "finished"


# --- hosts that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_failed_gpu_handover_releases_lock_and_worker(queue, run, host, wait_until_idle, warm):
    first, second = run("one"), run("two")
    host.fails = {"lend"}
    worker = worker_module.Worker({"run": str(first.path)}) if warm else None
    if worker:
        worker.reply()
    queue.add(Job(first, worker=worker))
    wait_until_idle()
    assert "the model cannot leave" in terminal_event(first).data["message"]
    assert not worker or worker.exit_code(5) is not None, "the worker is closed"
    host.fails = set()
    queue.add(Job(second))
    wait_until_idle()
    assert event_kinds(second)[-1] == "finished"


@pytest.mark.parametrize("where", ["return", "reload"])
def test_host_failing_after_training_keeps_the_run_finished(queue, run, host, wait_until_idle, where):
    first, second = run("one"), run("two")
    host.fails = {where}
    queue.add(Job(first))
    queue.add(Job(second))
    wait_until_idle()
    assert host.reloaded_names == ["one", "two"]
    assert [event_kinds(folder)[-1] for folder in (first, second)] == ["finished", "finished"]


def test_failing_on_job_end_callback_keeps_the_run_finished(handover, run, host, monkeypatch):
    def fail(job: Job) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(worker_module, "_program", lambda: FAKE_WORKER)
    queue, folder = RunQueue(handover.gpu_context, fail), run()
    queue.add(Job(folder))
    until(lambda: not queue.jobs())
    until(lambda: not host.lock.locked())
    assert event_kinds(folder)[-1] == "finished"


def test_gpu_is_returned_only_after_the_worker_exits(queue, run, host, wait_until_idle):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in event_kinds(folder))
    host.fails = {"interrupt"}
    wait_until_idle()
    assert not alive(pid_of(folder))
    assert event_kinds(folder)[-1] in ("failed", "stopped")


# --- deleted run folders --------------------------------------------------------------------------------------


def test_run_folder_deleted_while_queued(queue, run, host, wait_until_idle):
    first, second, third = run("one"), run("two"), run("three")
    with host.lock:
        for folder in (first, second, third):
            queue.add(Job(folder))
        shutil.rmtree(third.path)
        shutil.rmtree(second.path)
    wait_until_idle()
    assert event_kinds(first)[-1] == "finished"
    last = run("four")
    queue.add(Job(last))
    wait_until_idle()
    assert event_kinds(last)[-1] == "finished"
    assert not third.path.exists()


def test_run_folder_deleted_before_another_is_stopped(queue, run, host, wait_until_idle):
    first, second, third = run("one"), run("two"), run("three")
    with host.lock:
        for folder in (first, second, third):
            queue.add(Job(folder))
        shutil.rmtree(third.path)
        assert queue.stop(second.path)
    wait_until_idle()


def test_run_folder_deleted_while_training(queue, run, wait_until_idle):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in event_kinds(first))
    shutil.rmtree(first.path)
    wait_until_idle()
    assert event_kinds(second)[-1] == "finished"


def test_job_without_a_folder_is_not_queued(queue, run, wait_until_idle):
    folder = run()
    shutil.rmtree(folder.path)
    try:
        queue.add(Job(folder))
    except OSError:
        assert not queue.jobs()
    wait_until_idle()


# --- the host's end ----------------------------------------------------------------------------------------------

HOST = """
import sys, time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
sys.path.insert(0, {root!r})
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job, RunQueue

@contextmanager
def around(job):
    yield lambda: False

RunQueue(around).add(Job(RunFolder(Path({run!r}))))
time.sleep(600)
"""


@pytest.mark.faults("SIGKILL of the host")
def test_worker_of_a_killed_host_saves_and_resumes_to_the_same_bytes(tiny_checkpoint, pictures, tmp_path):
    def start(place: str) -> RunFolder:
        settings, problems = parse({
            "model": str(tiny_checkpoint), "images": str(pictures), "name": "my-mug",
            "out": str(tmp_path / place / "embeddings"), "runs_dir": str(tmp_path / place / "runs"), "steps": "60",
            "preview_every": "0", "snapshot_every": "0", "flip": True, "device": "cpu", "precision": "fp32",
            "init_text": "object",
        })  # fmt: skip
        assert not problems
        (tmp_path / place).mkdir()
        return create_run(preflight(settings))

    folder = start("killed")
    program = HOST.format(root=str(ROOT), run=str(folder.path))
    host = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        until(lambda: "step" in event_kinds(folder), 300)
    finally:
        os.killpg(host.pid, signal.SIGKILL)
        host.wait()
    until(lambda: not folder.running, 30)
    assert event_kinds(folder)[-2:] == ["stopped", "report"]
    assert 0 < folder.saved_step < 60
    assert folder.saved_step == max(folder.history().steps) == terminal_event(folder).data["step"]
    assert execute_run(folder)
    whole = start("whole")
    assert execute_run(whole)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()
