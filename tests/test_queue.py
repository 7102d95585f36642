"""Trainings one after another, whatever becomes of their processes, their folders and the host."""

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
from lib_ti.settings.train_settings import parse
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
    from lib_ti.settings.train_settings import parse

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
"""Speaks as a training's process does, but starts at once and learns nothing. `how.json` in the run's folder tells it
what to do."""


class FakeHost:
    """A host. `fails` says where; `wants_stop` is its Interrupt."""

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

    def selected_checkpoint(self) -> CheckpointChoice | None:
        return CheckpointChoice("tiny.safetensors [0123]", self.checkpoint) if self.checkpoint else None

    def selected_vae(self) -> Path | None:
        return None

    def device(self) -> str:
        return "cpu"

    def precision(self) -> str:
        return "fp32"

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


def until(condition, patience_s: float = 10.0):
    """What the condition gives, as soon as it is true."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.03)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kinds(folder: RunFolder) -> list[str]:
    return [event.kind for event in read_events(folder.events)[0]]


def queue_positions(folder: RunFolder) -> list[int]:
    return [event.data["place"] for event in read_events(folder.events)[0] if event.kind == "queued"]


def pid_of(folder: RunFolder) -> int:
    until((folder.path / "pid").exists)
    return int(until((folder.path / "pid").read_text))


def ending(folder: RunFolder):
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
    """Makes a run's folder, for the worker above."""

    def make(name: str = "my-mug", **how: object) -> RunFolder:
        asked = {
            "images": "x",
            "model": "x",
            "name": name,
            "out": str(host.embeddings_dir),
            "runs_dir": str(host.runs_dir),
        }
        settings, _ = parse(asked)
        return RunFolder.create(settings, {"how.json": json.dumps(how).encode()})

    return make


@pytest.fixture
def is_over(queue, host, handover):
    """Waits for the queue to be empty, and sees that all that was the host's is the host's again."""

    def wait() -> None:
        until(lambda: not queue.jobs())
        until(lambda: not host.lock.locked())
        assert not host.is_gpu_lent
        assert handover.current_job is None

    return wait


ENDLESS = 100_000


# --- the order ---------------------------------------------------------------------------------------------------


def test_one_after_another_in_their_order(queue, run, host, ended, is_over):
    folders = [run(name) for name in ("one", "two", "three")]
    for folder in folders:
        queue.add(Job(folder))
    assert [job.folder for job in queue.jobs()] == folders
    is_over()
    assert [kinds(folder)[-1] for folder in folders] == ["finished"] * 3
    assert ended == host.lent_for == host.reloaded_names == ["one", "two", "three"]
    times = [[e.time for e in read_events(folder.events)[0] if e.kind != "queued"] for folder in folders]
    assert all(earlier[-1] <= later[0] for earlier, later in pairwise(times))


def test_events_tell_the_place_and_how_it_moves_up(queue, run, host, is_over):
    folders = [run(name) for name in ("one", "two", "three", "four")]
    with host.lock:
        for folder in folders:
            queue.add(Job(folder))
        assert [queue_positions(folder) for folder in folders] == [[0], [1], [2], [3]]
        queue.stop(folders[1].path)
        assert [queue_positions(folder) for folder in folders] == [[0], [1], [2, 1], [3, 2]]
    is_over()
    assert queue_positions(folders[3]) == [3, 2, 1]


def test_many_clicks_at_once_lose_none(queue, run, is_over):
    folders = [run(f"word-{i}", steps=1) for i in range(8)]
    threads = [threading.Thread(target=queue.add, args=(Job(folder),)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_over()
    assert [kinds(folder).count("finished") for folder in folders] == [1] * 8


def test_only_the_first_keeps_a_warm_process(queue, run, is_over):
    first, second = run("one", steps=ENDLESS), run("two")
    warm = [worker_module.Worker({"run": str(folder.path)}) for folder in (first, second)]
    for worker in warm:
        worker.reply()
    queue.add(Job(first, worker=warm[0]))
    queue.add(Job(second, worker=warm[1]))
    assert warm[1].exit_code(5) is not None
    assert warm[0].running
    queue.stop(first.path)
    is_over()
    assert kinds(second)[-1] == "finished", "with a process of its own"


# --- stopping ----------------------------------------------------------------------------------------------------


def test_stopping_one_that_waits_leaves_the_others(queue, run, host, ended, is_over):
    first, second, third = run("one", steps=30), run("two"), run("three")
    for folder in (first, second, third):
        queue.add(Job(folder))
    assert queue.stop(second.path)
    assert [job.folder for job in queue.jobs()] == [first, third]
    assert kinds(second) == ["queued", "stopped"]
    assert not queue.stop(second.path), "it is out already"
    is_over()
    assert (kinds(first)[-1], kinds(third)[-1]) == ("finished", "finished")
    assert ended == ["one", "three"]


def test_stopping_what_was_never_there(queue, tmp_path):
    assert not queue.stop(tmp_path)
    assert queue.find(tmp_path) is None


@pytest.mark.parametrize("warm", [False, True])
def test_stopping_while_the_host_generates(queue, run, host, ended, handover, warm):
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
        assert kinds(folder) == ["queued", "stopped"]
        assert host.lock.locked(), "it is still the host's"
    assert host.lent_for == ended == []
    assert not worker or worker.exit_code(5) is not None


def test_stopping_while_its_process_still_starts(queue, run, host, is_over):
    folder = run(starts_for_s=0.6)
    queue.add(Job(folder))
    pid_of(folder)
    assert queue.stop(folder.path)
    is_over()
    assert kinds(folder) == ["queued", "stopped"]


def test_stopping_while_it_trains(queue, run, is_over):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in kinds(folder))
    assert queue.stop(folder.path)
    assert queue.stop(folder.path), "pressed twice"
    is_over()
    assert [kind for kind in kinds(folder) if kind in TERMINAL_KINDS] == ["stopped"]


def test_the_hosts_interrupt_stops_it(queue, run, host, is_over):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in kinds(folder))
    host.wants_stop.set()
    is_over()
    assert kinds(folder)[-1] == "stopped"


def test_closing_saves_the_running_one_and_takes_no_more(queue, run, is_over):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in kinds(first))
    queue.close(10)
    assert kinds(first)[-1] == kinds(second)[-1] == "stopped"
    assert not alive(pid_of(first))
    with pytest.raises(TextualInversionError, match="closing"):
        queue.add(Job(run("three")))
    is_over()
    queue.close(10)


# --- processes that end badly ------------------------------------------------------------------------------------


def test_a_killed_process_is_a_failure_that_is_explained(queue, run, is_over):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in kinds(first))
    os.kill(pid_of(first), signal.SIGKILL)
    is_over()
    assert kinds(first)[-1] == "failed"
    message = ending(first).data["message"]
    assert "memory" in message
    assert "resume" in message
    assert kinds(second)[-1] == "finished"


def test_what_a_process_last_complained_of_is_told(queue, run, is_over):
    folder = run(complains="libcuda.so.1: it is gone")
    queue.add(Job(folder))
    is_over()
    assert "libcuda.so.1: it is gone" in ending(folder).data["message"]


def test_a_request_that_is_refused_is_a_failure(queue, run, is_over):
    first, second = run("one", refuses="the checkpoint of this run is not there any more"), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    is_over()
    assert ending(first).data["message"] == "the checkpoint of this run is not there any more"
    assert kinds(second)[-1] == "finished"


def test_a_process_that_cannot_start(queue, run, monkeypatch, is_over):
    monkeypatch.setattr(worker_module, "_program", lambda: "raise SystemExit('no torch here')")
    folder = run()
    queue.add(Job(folder))
    is_over()
    assert "no torch here" in ending(folder).data["message"]


def test_libraries_that_greet_on_standard_output_are_passed_over(queue, run, is_over):
    """Some do when they are imported, and the host's environment is not ours to choose."""
    folder = run(greets=True)
    queue.add(Job(folder))
    is_over()
    assert kinds(folder)[-1] == "finished"


# --- hosts that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_a_host_that_cannot_lend_keeps_its_lock_and_its_memory(queue, run, host, is_over, warm):
    first, second = run("one"), run("two")
    host.fails = {"lend"}
    worker = worker_module.Worker({"run": str(first.path)}) if warm else None
    if worker:
        worker.reply()
    queue.add(Job(first, worker=worker))
    is_over()
    assert "the model cannot leave" in ending(first).data["message"]
    assert not worker or worker.exit_code(5) is not None, "a process that nobody will ever let go"
    host.fails = set()
    queue.add(Job(second))
    is_over()
    assert kinds(second)[-1] == "finished"


@pytest.mark.parametrize("where", ["return", "reload"])
def test_a_host_that_fails_afterwards_does_not_undo_the_training(queue, run, host, is_over, where):
    first, second = run("one"), run("two")
    host.fails = {where}
    queue.add(Job(first))
    queue.add(Job(second))
    is_over()
    assert host.reloaded_names == ["one", "two"]
    assert [kinds(folder)[-1] for folder in (first, second)] == ["finished", "finished"]


def test_a_failure_afterwards_does_not_undo_the_training(handover, run, host, monkeypatch):
    def fail(job: Job) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(worker_module, "_program", lambda: FAKE_WORKER)
    queue, folder = RunQueue(handover.gpu_context, fail), run()
    queue.add(Job(folder))
    until(lambda: not queue.jobs())
    until(lambda: not host.lock.locked())
    assert kinds(folder)[-1] == "finished"


def test_a_host_that_fails_meanwhile_gets_its_device_back_when_nothing_trains_on_it(queue, run, host, is_over):
    folder = run(steps=ENDLESS)
    queue.add(Job(folder))
    until(lambda: "step" in kinds(folder))
    host.fails = {"interrupt"}
    is_over()
    assert not alive(pid_of(folder))
    assert kinds(folder)[-1] in ("failed", "stopped")


# --- folders that go away ----------------------------------------------------------------------------------------


def test_a_folder_that_goes_while_it_waits(queue, run, host, is_over):
    first, second, third = run("one"), run("two"), run("three")
    with host.lock:
        for folder in (first, second, third):
            queue.add(Job(folder))
        shutil.rmtree(third.path)
        shutil.rmtree(second.path)
    is_over()
    assert kinds(first)[-1] == "finished"
    last = run("four")
    queue.add(Job(last))
    is_over()
    assert kinds(last)[-1] == "finished"
    assert not third.path.exists()


def test_a_folder_that_is_gone_when_another_is_stopped(queue, run, host, is_over):
    first, second, third = run("one"), run("two"), run("three")
    with host.lock:
        for folder in (first, second, third):
            queue.add(Job(folder))
        shutil.rmtree(third.path)
        assert queue.stop(second.path)
    is_over()


def test_a_folder_that_goes_while_it_trains(queue, run, is_over):
    first, second = run("one", steps=ENDLESS), run("two")
    queue.add(Job(first))
    queue.add(Job(second))
    until(lambda: "step" in kinds(first))
    shutil.rmtree(first.path)
    is_over()
    assert kinds(second)[-1] == "finished"


def test_what_cannot_be_recorded_does_not_stay_in_the_queue(queue, run, is_over):
    folder = run()
    shutil.rmtree(folder.path)
    try:
        queue.add(Job(folder))
    except OSError:
        assert not queue.jobs()
    is_over()


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


def test_a_training_outlives_its_killed_host_just_long_enough_to_save(tiny_checkpoint, pictures, tmp_path):
    def start(place: str) -> RunFolder:
        settings, problems = parse({
            "model": str(tiny_checkpoint), "images": str(pictures), "name": "my-mug",
            "out": str(tmp_path / place / "embeddings"), "runs_dir": str(tmp_path / place / "runs"), "steps": "60",
            "preview_every": "0", "snapshot_every": "0", "flip": True, "device": "cpu", "precision": "fp32",
        })  # fmt: skip
        assert not problems
        (tmp_path / place).mkdir()
        return create_run(preflight(settings))

    folder = start("killed")
    program = HOST.format(root=str(ROOT), run=str(folder.path))
    host = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        until(lambda: "step" in kinds(folder), 300)
    finally:
        os.killpg(host.pid, signal.SIGKILL)
        host.wait()
    until(lambda: not folder.running, 30)
    assert kinds(folder)[-1] == "stopped"
    assert 0 < folder.saved_step < 60
    assert folder.saved_step == max(folder.history().steps) == ending(folder).data["step"]
    assert execute_run(folder)
    whole = start("whole")
    assert execute_run(whole)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()
