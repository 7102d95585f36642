"""What the page can ask for, asked as the page does."""

import inspect
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_queue import FAKE_WORKER, FakeHost, kinds, until

from lib_ti.errors import BadInput, TrainingFailed, UnusableFile
from lib_ti.runs import worker as worker_module
from lib_ti.runs.events import EventLog
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.lock import RunLock
from lib_ti.runs.resume import resume
from lib_ti.settings.names import name_problem
from lib_ti.settings.train_settings import parse
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.api import bridge
from lib_ti.webui.forms import launch
from lib_ti.webui.service import TrainingService
from lib_ti.webui.ui import form

DRAFT = "0123456789abcdef" * 2


class Page:
    """Asks a trainer, and sees that each reply is one that a page can read."""

    def __init__(self, host: FakeHost, uploads: Path) -> None:
        self.host, self.uploads, self.service = host, uploads, TrainingService(host)
        self.tokens = 0

    def ask(self, do: str, **arguments):
        return self.send(json.dumps({"do": do, **arguments}))

    def send(self, text: str):
        reply = bridge.handle_request(self.service.actions(), text)
        reply.encode()
        found = json.loads(reply, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert isinstance(found, dict)
        if "details" in found:
            assert found["error"]
        return found

    def poll(self, run: str | None = None, after: int = 0):
        return self.ask("poll", run=run, after=after)

    def state(self, run: str) -> dict:
        """A run but for its events, which are many."""
        return self.poll(run, 10**9)["run"]

    def upload(self, content: bytes) -> str:
        self.tokens += 1
        path = self.uploads / f"{self.tokens:040x}" / "blob"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return str(path)

    def add(self, folder: Path, draft: str = DRAFT) -> None:
        for path in sorted(folder.iterdir()):
            reply = self.ask("add", draft=draft, path=self.upload(path.read_bytes()), name=path.name)
            assert reply["refused"] == []

    def form(self, **changes):
        values = self.ask("form")["values"] | {"preview_every": "0", "snapshot_every": "0", "resolution": "64"}
        assert changes.keys() <= values.keys()
        return values | changes

    def train(self, draft: str = DRAFT, token: str | None = None, **changes):
        self.tokens += 1
        return self.ask("train", form=self.form(**changes), draft=draft, token=token or str(self.tokens))

    def folder(self, run: str) -> RunFolder:
        return RunFolder(self.host.runs_dir / run)

    def ends(self, run: str, patience_s: float = 30) -> dict:
        """The run as it is when nobody works on it any more."""
        until(lambda: not self.state(run)["busy"], patience_s)
        return self.state(run)


@pytest.fixture
def host(tmp_path, tiny_checkpoint) -> FakeHost:
    return FakeHost(tmp_path, tiny_checkpoint)


@pytest.fixture
def page(host, tmp_path, monkeypatch):
    """A page whose trainings learn nothing, and at once."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(worker_module, "_program", lambda: FAKE_WORKER)
    page = Page(host, tmp_path / "gradio")
    yield page
    page.service.close()


@pytest.fixture
def ready(page, pictures) -> Page:
    """Pictures are added."""
    page.add(pictures)
    return page


def in_file(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- hostile requests --------------------------------------------------------------------------------------------

ODD = [
    None, True, False, -1, 0, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", " ", "x", "..", "../..", "/etc/passwd",
    "\0", "\ud800", "x" * 5000, [], [[]], ["x"], {}, {"a": {"b": []}}, {"name": ["my-mug"]}, {"name": {"a": 1}, "steps": []},
]  # fmt: skip


class Refusing:
    """A training's process that finds nothing wrong, but does not come about."""

    def __init__(self, request) -> None:
        json.dumps(request)

    def reply(self):
        raise TrainingFailed("no process for this test")

    def close(self) -> None:
        pass


@pytest.fixture
def besieged(ready, host, tmp_path, monkeypatch):
    """A page with a finished run, and something around its folders that nobody may touch."""
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    monkeypatch.setattr(launch, "Worker", Refusing)
    outside = tmp_path / "outside" / "2024-05-01T12-00-00"
    shutil.copytree(ready.folder(run).path, outside)
    (host.embeddings_dir / "precious.safetensors").write_bytes(b"precious")
    return ready, run


def test_arguments_of_any_kind_do_no_harm(besieged, host, tmp_path):
    page, run = besieged
    good = {
        "run": run, "after": 0, "page": "tab", "form": page.form(name="my-cup"), "draft": DRAFT, "token": "t", "path": "x",
        "name": "x", "id": "0000", "text": "x", "step": 1, "prompt": 0, "seed": 0, "full": False, "overwrite": False,
        "steps": 3,
    }  # fmt: skip
    around = in_file(tmp_path / "outside"), (host.embeddings_dir / "precious.safetensors").read_bytes()
    counted = 0
    for do, action in page.service.actions().items():
        wanted = list(inspect.signature(action).parameters)
        for spoiled in wanted:
            for value in ODD:
                page.ask(do, **{k: good[k] for k in wanted} | {spoiled: value})
                counted += 1
    assert counted > 1000
    assert (in_file(tmp_path / "outside"), (host.embeddings_dir / "precious.safetensors").read_bytes()) == around
    assert page.folder(run).settings.name == "my-mug", "it was never named rightly, so it is still there"
    assert {p.name for p in tmp_path.iterdir()} <= {"embeddings", "textual_inversion", "gradio", "outside"}
    assert all(name_problem(p.stem) is None for p in host.embeddings_dir.glob("*.safetensors"))
    assert page.poll(run)["run"]["state"] == "finished"


def test_fields_of_any_kind_are_problems_or_errors(besieged):
    page, _ = besieged
    for option in [*form.field_names(False), "images", "model", "out", "runs_dir", "device", "vae", "unheard of"]:
        for value in ODD:
            filled = page.form(name="my-cup") | {option: value}
            checked = page.ask("check", form=filled, draft=DRAFT)
            assert "problems" in checked or "error" in checked
            assert "details" not in checked, (option, value, checked["error"])
            assert "details" not in page.ask("train", form=filled, draft=DRAFT, token=f"{option}{value!r}")


@pytest.mark.parametrize(
    "run",
    [
        "", "/", "my-mug", "my-mug/", "/my-mug", "my-mug/..", "../outside/2024-05-01T12-00-00", "my-mug/../../outside",
        "../outside", "./my-mug", "my-mug/.", "my-mug//x", "outside/2024-05-01T12-00-00", "my-mug\\..", "..\\outside",
        "C:/x", "my-mug/x:y", "my-mug/\0", "x" * 300 + "/y", "\ud800/x", ".drafts/" + DRAFT, ".drafts/x", "/etc/passwd",
        "my-mug/2024\n", None, 5, [], ["my-mug", "x"], {},
    ],
)  # fmt: skip
def test_runs_are_only_those_of_the_runs_folder(besieged, tmp_path, run):
    page, _ = besieged
    before = in_file(tmp_path)
    place = {"step": 1, "prompt": 0, "seed": 0}
    for do, more in (
        ("stop", {}), ("sample", {}), ("resume", {}), ("delete", {}), ("settings", {}), ("preview", place), ("use", {}),
        ("card", place), ("download", {}), ("open_folder", {}), ("reuse", {"draft": "f" * 32}),
    ):  # fmt: skip
        assert "error" in page.ask(do, run=run, **more), do
    if run is not None:
        reply = page.poll(run)
        assert reply["run"] is None
        assert reply["gone"]
    assert in_file(tmp_path) == before


def test_a_very_long_name_does_not_hold_the_host_up(page):
    began = time.perf_counter()
    for name in ("a" * 100_000, "a b " * 30_000):
        assert page.ask("check", form={"name": name}, draft=DRAFT)["name"]["state"] == "bad"
    assert time.perf_counter() - began < 3


# --- the form ----------------------------------------------------------------------------------------------------


def test_what_the_form_starts_with(page):
    reply = page.ask("form")
    assert reply["checkpoint"]["family"] == "sd1"
    assert reply["checkpoint"]["resolution"] == 64
    assert reply["values"]["steps"] == "500"
    assert not reply["hides_paths"]
    page.ask("check", form=reply["values"], draft=DRAFT)


def test_no_checkpoint_is_no_hindrance_until_one_trains(page, host, pictures):
    host.checkpoint = None
    assert page.ask("form")["checkpoint"] is None
    page.add(pictures)
    assert page.ask("check", form=page.form(name="my-mug"), draft=DRAFT)["checkpoint"] is None
    problems = page.train(name="my-mug")["problems"]
    assert [p["option"] for p in problems] == ["model"]


def test_a_checkpoint_that_cannot_be_trained_on_is_told(page, host, tmp_path):
    host.checkpoint = tmp_path / "broken.safetensors"
    host.checkpoint.write_bytes(b"")
    checkpoint = page.ask("form")["checkpoint"]
    assert checkpoint["family"] is None
    assert checkpoint["problem"] == "the file is empty"


@pytest.mark.parametrize(
    ("name", "state"),
    [("", "empty"), ("a/b", "bad"), ("mug", "word"), ("my-mug", "free"), ("my-cup", "taken"), ("MY-CUP", "taken")],
)
def test_what_is_said_of_a_name(page, host, name, state):
    (host.embeddings_dir / "my-cup.pt").touch()
    said = page.ask("check", form=page.form(name=name), draft=DRAFT)["name"]
    assert said["state"] == state
    assert said["suggestion"] == {"word": "my-mug", "taken": f"{name}-2"}.get(state, "")


def test_paths_are_none_of_the_browsers_business_where_the_host_says_so(ready, host, pictures):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    host.hides_paths = True
    assert not {"template_file", "init_embedding"} & ready.ask("form")["values"].keys()
    assert not {"template_file", "init_embedding"} & ready.ask("settings", run=run)["form"].keys()
    for option in ("template_file", "init_embedding"):
        filled = ready.form(name="my-cup") | {option: "/etc/passwd"}
        for reply in (
            ready.ask("check", form=filled, draft=DRAFT),
            ready.ask("train", form=filled, draft=DRAFT, token=option),
        ):
            assert [p["option"] for p in reply["problems"]] == [option]
    assert "does not let" in ready.ask("folder", draft="e" * 32, path=str(pictures))["error"]
    assert ready.ask("pictures", draft="e" * 32)["pictures"] == []
    assert str(host.runs_dir) not in ready.ask("open_folder", run=run)["error"]
    host.hides_paths = False
    assert len(ready.ask("folder", draft="e" * 32, path=f' "{pictures}" ')["pictures"]) == 4


# --- starting ----------------------------------------------------------------------------------------------------


def test_the_same_click_twice_is_one_training(ready, host):
    replies = []
    clicks = [
        threading.Thread(target=lambda: replies.append(ready.train(name="my-mug", steps="2", token="one")))
        for _ in range(3)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert replies[0]["run"]
    assert all(reply == replies[0] for reply in replies)
    assert len(list(host.runs_dir.glob("my-mug/*"))) == 1
    ready.ends(replies[0]["run"])


def test_a_word_is_trained_once_at_a_time(ready):
    run = ready.train(name="my-mug", steps="100000")["run"]
    for name in ("my-mug", "MY-MUG"):
        (problem,) = ready.train(name=name)["problems"]
        assert (problem["option"], "being trained already" in problem["message"]) == ("name", True)
        assert ready.ask("check", form=ready.form(name=name), draft=DRAFT)["name"]["state"] == "running"
    assert ready.ask("delete", run=run)["error"].startswith("Stop")
    ready.ask("stop", run=run)
    ready.ends(run)


def test_the_second_waits_in_its_place(ready):
    first, second = (ready.train(name=name, steps="100000")["run"] for name in ("my-disc", "my-ring"))
    reply = ready.poll(second)
    assert (reply["active"], reply["queue"]) == (first, [second])
    assert (reply["run"]["state"], reply["run"]["place"], reply["run"]["busy"]) == ("queued", 1, True)
    until(lambda: ready.poll()["lending"] == {"run": first, "name": "my-disc"})
    assert [run["state"] for run in sorted(ready.ask("runs")["runs"], key=lambda run: run["name"])] == [
        "running",
        "queued",
    ]
    assert ready.ask("stop", run=first) == {}
    until(lambda: ready.poll()["active"] == second)
    assert "not running" in ready.ask("stop", run=first)["error"]
    ready.ask("stop", run=second)
    assert ready.ends(second)["state"] == "stopped"


def test_without_pictures_there_is_no_run(page, host):
    (problem,) = page.train(name="my-mug")["problems"]
    assert problem["option"] == "images"
    assert not list(host.runs_dir.glob("my-mug/*"))
    assert page.poll()["active"] is None


def test_without_room_for_the_pictures_there_is_no_run(ready, host, monkeypatch):
    def full(draft, target, *more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ready.service._drafts, "copy_to_run", full)
    assert "No space left" in ready.train(name="my-mug")["error"]
    assert not list(host.runs_dir.glob("my-mug/*"))
    assert ready.poll()["active"] is None


CAPTIONS = {
    "auto": ["a red mug", ""],
    "txt": ["a red mug", ""],
    "none": ["", ""],
    "file-name": ["mug on a table", "another one"],
}


@pytest.mark.parametrize("source", CAPTIONS)
def test_a_run_has_the_captions_that_were_asked_for(page, pictures, source):
    for name, path in zip(("mug_on_a_table.png", "another one.png"), sorted(pictures.iterdir()), strict=False):
        page.ask("add", draft=DRAFT, path=page.upload(path.read_bytes()), name=name)
    page.ask("caption", draft=DRAFT, id="0000", text="a red mug")
    run = page.train(name="my-mug", steps="2", captions=source)["run"]
    texts = [page.folder(run).images / f"{i:04d}.txt" for i in range(2)]
    assert [text.read_text() if text.exists() else "" for text in texts] == CAPTIONS[source]
    page.ends(run)


# --- following ---------------------------------------------------------------------------------------------------


def test_a_damaged_run_does_not_silence_the_page(ready, host):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    for number, text in enumerate(("", "{}", '{"settings": {"steps": "many"}}', "\0", "[" * 100_000)):
        broken = host.runs_dir / "broken" / f"2099-01-0{number + 1}T00-00-00"
        broken.mkdir(parents=True)
        (broken / "settings.json").write_text(text)
        (broken / "events.jsonl").write_text('{"kind": "step"\n\0\n')
    ready.service._runs.invalidate()
    reply = ready.poll(run)
    assert reply.get("run", {}).get("state") == "finished"
    assert [listed["id"] for listed in ready.ask("runs")["runs"]] == [run]
    ready.poll(f"broken/{broken.name}")
    assert ready.ask("delete", run=f"broken/{broken.name}") == {}, "and it can be got rid of"


def test_events_come_once_and_in_order(ready):
    run = ready.train(name="my-mug", steps="40")["run"]
    after, steps = 0, []
    while True:
        reply = ready.poll(run, after)["run"]
        steps += [event["step"] for event in reply["events"] if event["kind"] == "step"]
        after = reply["after"]
        if not reply["busy"] and not reply["more"]:
            break
    assert steps == list(range(1, 41))
    assert ready.poll(run, after)["run"]["events"] == []
    assert ready.poll(run, 10**12)["run"]["events"] == []


def test_a_very_long_prompt_does_not_stop_the_events(ready):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    log = EventLog(ready.folder(run).events)
    log.append("preview", step=2, prompt_index=0, seed_index=0, prompt="x" * 700_000, seed=1, file="x")
    log.append("finished", step=2, file="")
    after = 0
    for _ in range(5):
        reply = ready.poll(run, after)["run"]
        after = reply["after"]
    assert not reply["more"]
    assert after == ready.folder(run).events.stat().st_size


def test_a_run_that_another_program_trains_is_left_to_it(ready, host):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    folder = ready.folder(run)
    EventLog(folder.events).append("loading", checkpoint="x", folder="x")
    lock = RunLock(folder.path / "lock")
    lock.acquire()
    try:
        before = folder.events.read_bytes()
        reply = ready.poll(run)
        assert reply["run"]["state"] == "loading"
        assert not reply["run"]["resumable"]
        assert reply["active"] == run
        assert "nother" in ready.ask("resume", run=run)["error"]
        assert "error" in ready.ask("delete", run=run)
        assert folder.events.read_bytes() == before
    finally:
        lock.release()
    assert ready.poll(run)["run"]["state"] == "stopped"
    assert ready.poll(run)["run"]["resumable"]
    assert [listed["state"] for listed in ready.ask("runs")["runs"]] == ["interrupted"]


# --- generating meanwhile ----------------------------------------------------------------------------------------


def test_a_trial_is_gone_however_the_training_ends(ready, host):
    trial = host.embeddings_dir / "my-mug-preview.safetensors"
    for ending in ("stopped", "failed"):
        reply = ready.train(name="my-mug", steps="100000", keep_generating=True)
        run, folder = reply["run"], ready.folder(reply["run"])
        (folder.path / "snapshots").mkdir()
        folder.snapshot(5).write_bytes(b"five")
        until(trial.exists)
        folder.snapshot(10).write_bytes(b"ten")
        until(lambda: trial.read_bytes() == b"ten")
        assert not host.lock.locked()
        assert ready.poll(run)["lending"] is None
        assert ready.poll(run)["run"]["sharing"]
        if ending == "stopped":
            ready.ask("stop", run=run)
        else:
            child = ready.service._queue.find(folder.path).worker
            os.kill(child._process.pid, signal.SIGKILL)
        assert ready.ends(run)["state"] == ending
        assert not trial.exists()
        until(lambda: host.reloaded_names.count("my-mug-preview") >= 3)
        host.reloaded_names.clear()
        assert host.lent_for == []


def test_somebody_elses_word_is_not_taken_for_a_trial(ready, host):
    theirs = host.embeddings_dir / "my-mug-preview.safetensors"
    theirs.write_bytes(b"somebody else's")
    run = ready.train(name="my-mug", steps="30", keep_generating=True)["run"]
    (ready.folder(run).path / "snapshots").mkdir()
    ready.folder(run).snapshot(5).write_bytes(b"five")
    ready.ends(run)
    assert theirs.read_bytes() == b"somebody else's"


def test_what_a_killed_host_left_is_cleaned_up_by_the_next(ready, host):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    trial, other = host.embeddings_dir / "my-mug-preview.safetensors", host.embeddings_dir / "other.safetensors"
    for target in (trial, other):
        target.write_bytes(b"left")
    mark = ready.folder(run).path / "trial.json"
    mark.write_text(json.dumps(str(trial)))
    with_lock = RunLock(ready.folder(run).path / "lock")
    with_lock.acquire()
    TrainingService(host)
    assert trial.exists(), "its training is still saving"
    with_lock.release()
    TrainingService(host)
    assert not trial.exists()
    assert not mark.exists()
    for text in (json.dumps(str(other)), "", "5", "[]", '"\\u0000"'):
        mark.write_text(text)
        TrainingService(host)
    assert other.exists()


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [True, False])
def test_copies_of_pictures_and_snapshots_go_only_when_a_run_is_finished(ready, host, keeps):
    host.keep_images = host.keep_snapshots = keeps
    run = ready.train(name="my-mug", steps="100000")["run"]
    folder = ready.folder(run)
    (folder.path / "snapshots").mkdir()
    folder.snapshot(1).write_bytes(b"one")
    until(lambda: "step" in kinds(folder))
    ready.ask("stop", run=run)
    assert ready.ends(run)["state"] == "stopped"
    assert len(list(folder.images.glob("*.png"))) == 4
    assert folder.snapshot(1).exists()
    (folder.path / "how.json").write_text('{"steps": 2}')
    assert ready.ask("resume", run=run) == {"run": run}
    assert ready.ask("resume", run=run) == {"run": run}, "the same click twice"
    assert ready.ends(run)["state"] == "finished"
    assert folder.images.exists() == keeps
    assert folder.snapshot(1).exists() == keeps


def test_a_run_does_not_go_on_with_the_pictures_of_another(ready, host, pictures):
    """The page's pictures may be others by now."""
    host.keep_images = False
    run = ready.train(name="my-mug", steps="2")["run"]
    assert not ready.ends(run)["resumable"]
    assert "has not kept" in ready.ask("reuse", draft=DRAFT, run=run)["error"]
    with pytest.raises(BadInput) as raised:
        resume(ready.folder(run), {"steps": "900"})
    assert [problem.option for problem in raised.value.problems] == ["images"]


def test_pictures_of_a_run_come_back(ready):
    run = ready.train(name="my-mug", steps="2")["run"]
    ready.ends(run)
    ready.ask("clear", draft=DRAFT)
    assert len(ready.ask("reuse", draft=DRAFT, run=run)["pictures"]) == 4
    assert len(ready.ask("crops", draft=DRAFT, form=ready.form())["crops"]) == 4


# --- real trainings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(tiny_checkpoint, pictures, tmp_path_factory):
    """A word that learns while the host generates, is stopped, and goes on with the host's device for itself."""
    folder = tmp_path_factory.mktemp("story")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
    host = FakeHost(folder, tiny_checkpoint)
    page = Page(host, folder / "gradio")
    page.add(pictures)
    run = page.train(
        name="my-disc", steps="5000", snapshot_every="20", preview_every="5000", preview_steps="1", keep_generating=True
    )["run"]
    seen = {"host": host, "page": page, "run": run}
    trial = host.embeddings_dir / "my-disc-preview.safetensors"
    until(trial.exists, 60)
    seen["trial"] = load_file(trial), host.lock.locked(), page.poll(run)
    seen["sample"] = page.ask("sample", run=run)
    until(lambda: len({step for step, _, _ in page.folder(run).history().previews}) > 1, 60)
    page.ask("stop", run=run)
    seen["stopped"] = page.ends(run)
    seen["left"] = {path.name for path in host.embeddings_dir.iterdir()}
    seen["more"] = page.ask("resume", run=run, steps=seen["stopped"]["step"] + 40)
    until(lambda: page.state(run)["step"] > seen["stopped"]["step"], 60)
    seen["lent"] = page.poll(run), host.lock.locked()
    seen["finished"] = page.ends(run, 60)
    seen["given back"] = page.poll(), host.lock.locked(), host.is_gpu_lent
    yield seen
    page.service.close()
    patch.undo()


def test_a_word_is_tried_while_it_learns(story):
    tensors, locked, reply = story["trial"]
    assert next(iter(tensors.values())).shape[0] == 2
    assert not locked
    assert (reply["active"], reply["lending"], reply["run"]["sharing"]) == (story["run"], None, True)
    assert story["left"] == set(), "a word that is not finished is none of the host's"
    assert story["host"].lent_for == ["my-disc"], "only when it went on"


def test_previews_come_when_asked_for(story):
    assert story["sample"] == {}
    steps = {e["step"] for e in story["page"].poll(story["run"])["run"]["events"] if e["kind"] == "preview"}
    assert {0, story["finished"]["step"]} < steps


def test_a_lent_host_is_told_of(story):
    reply, locked = story["lent"]
    assert reply["lending"] == {"run": story["run"], "name": "my-disc"}
    assert locked
    reply, locked, lent = story["given back"]
    assert reply["lending"] is reply["active"] is None
    assert not locked
    assert not lent


def test_stopped_and_taken_up_again(story):
    stopped, more = story["stopped"], story["finished"]
    assert (stopped["state"], stopped["resumable"], stopped["message"]) == ("stopped", True, "")
    assert story["more"] == {"run": story["run"]}
    assert (more["state"], more["step"], more["steps"]) == ("finished", stopped["step"] + 40, stopped["step"] + 40)
    assert {path.name for path in story["host"].embeddings.iterdir()} >= {"my-disc.safetensors", "my-disc.preview.png"}
    assert "my-disc" in story["host"].reloaded_names


def test_the_story_in_the_list(story):
    (listed,) = story["page"].ask("runs")["runs"]
    assert (listed["id"], listed["state"], listed["pictures"]) == (story["run"], "finished", True)
    assert listed["thumb"].startswith("data:image/jpeg")
    assert listed["loss"] > 0
    assert listed["bytes"] > 0


def test_another_step_is_taken_and_its_settings_come_back(story):
    page, run = story["page"], story["run"]
    assert page.ask("use", run=run, step=20, name="my-disc-20") == {"name": "my-disc-20"}
    assert {e["name"] for e in page.ask("embeddings")["embeddings"] if e["fits"]} >= {"my-disc", "my-disc-20"}
    assert page.ask("settings", run=run)["form"]["steps"] == str(story["finished"]["steps"])
    assert page.ask("use", run=run, step=21)["error"].startswith("This step was not saved")


class Here:
    """A training's process, as far as it checks a request, in this one."""

    def __init__(self, request) -> None:
        self.request = json.loads(json.dumps(request))

    def reply(self):
        preflight(*parse(self.request["settings"]))

    def close(self) -> None:
        pass


def test_all_problems_are_told_at_once_in_the_forms_words(ready, host, monkeypatch):
    page = ready
    monkeypatch.setattr(launch, "Worker", Here)
    (host.embeddings_dir / "others").mkdir()  # the WebUIs look there, too
    (host.embeddings_dir / "others" / "my-disc.pt").touch()
    problems = {
        p["option"]: p["message"]
        for p in page.train(
            name="my-disc", steps="many", batch_size="0", vectors="60", init_text=" ", init_random=False,
            preview_steps="1000", preview_every="5", template_file="/no/such/file", resolution="65",
        )["problems"]
    }  # fmt: skip
    assert {"name", "steps", "batch_size", "init_text", "template_file", "resolution"} <= problems.keys()
    assert not [text for text in problems.values() if "--" in text]
    assert "“Start from random vectors”" in problems["init_text"]
    assert "“Replace an existing word”" in problems["name"]
    assert not list(host.runs_dir.glob("my-disc/*"))
    assert page.poll()["active"] is None


def test_a_word_that_is_there_is_replaced_or_kept_beside(ready, host):
    """What the page offers where a name is taken: the same with `overwrite`, or with the suggested name."""
    (host.embeddings_dir / "my-cup.safetensors").write_bytes(b"the old one")
    suggestion = ready.ask("check", form=ready.form(name="my-cup"), draft=DRAFT)["name"]["suggestion"]
    assert suggestion == "my-cup-2"
    for changes in ({"name": "my-cup", "overwrite": True}, {"name": suggestion}):
        run = ready.train(steps="2", **changes)["run"]
        assert ready.ends(run)["state"] == "finished"
        assert ready.folder(run).settings.overwrite == ("overwrite" in changes)


# --- places that change meanwhile --------------------------------------------------------------------------------


@pytest.fixture
def new_run(tiny_checkpoint, pictures, tmp_path):
    """A real run of a few steps on a checkpoint of its own, that has not begun."""
    (tmp_path / "model").mkdir()
    checkpoint = Path(shutil.copyfile(tiny_checkpoint, tmp_path / "model" / "tiny.safetensors"))
    shutil.copyfile(tiny_checkpoint.with_suffix(".yaml"), checkpoint.with_suffix(".yaml"))
    settings, problems = parse({
        "model": str(checkpoint), "images": str(pictures), "name": "my-mug", "out": str(tmp_path / "embeddings"),
        "runs_dir": str(tmp_path / "runs"), "steps": "6", "preview_every": "0", "snapshot_every": "0", "device": "cpu",
        "precision": "fp32",
    })  # fmt: skip
    assert not problems
    return create_run(preflight(settings))


def test_a_checkpoint_that_goes_while_it_is_trained_on(new_run):
    def lose_it(event) -> None:
        if event.kind == "step":
            new_run.settings.model.unlink(missing_ok=True)

    assert execute_run(new_run, on_event=lose_it)
    assert new_run.embedding.exists()


def test_a_checkpoint_that_is_gone_before_it_goes_on(new_run):
    assert not execute_run(new_run, should_stop=lambda: new_run.state.exists() or "step" in kinds(new_run))
    before = in_file(new_run.path)
    new_run.settings.model.unlink()
    with pytest.raises(UnusableFile, match="put it back to go on"):
        resume(new_run, {})
    assert in_file(new_run.path) == before


def test_a_place_for_words_that_cannot_be_written_to(new_run):
    def lose_it(event) -> None:
        if event.kind == "step":
            new_run.settings.out.touch()

    with pytest.raises(TrainingFailed, match="the new embedding is"):
        execute_run(new_run, on_event=lose_it)
    assert new_run.embedding.exists()
    assert kinds(new_run)[-1] == "failed"
