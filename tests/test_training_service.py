"""The training service, called as the page calls it: through the JSON bridge."""

import dataclasses
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
from test_queue import FAKE_WORKER, FakeHost, event_kinds, until

from lib_ti.errors import BadInput, TrainingFailed, UnusableFile
from lib_ti.runs import worker as worker_module
from lib_ti.runs.events import EventLog
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.lock import RunLock
from lib_ti.runs.report import advice
from lib_ti.runs.resume import resume
from lib_ti.settings.names import name_problem
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.api import bridge
from lib_ti.webui.forms import form_to_settings, launch
from lib_ti.webui.service import TrainingService
from lib_ti.webui.ui import form

DRAFT = "0123456789abcdef" * 2


class Page:
    """Calls a service as the page does, and checks that each reply is valid JSON."""

    def __init__(self, host: FakeHost, uploads: Path) -> None:
        self.host, self.uploads, self.service = host, uploads, TrainingService(host)
        self.tokens = 0

    def ask(self, do: str, **arguments):
        return self.send(json.dumps({"do": do, **arguments}))

    def send(self, text: str):
        reply = bridge.handle_request(self.service.actions(), text)
        reply.encode()
        reply_object = json.loads(reply, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert isinstance(reply_object, dict)
        if "details" in reply_object:
            assert reply_object["error"]
        return reply_object

    def poll(self, run: str | None = None, after: int = 0):
        return self.ask("poll", run=run, after=after)

    def state(self, run: str) -> dict:
        """The state of a run, without its events."""
        return self.poll(run, 10**9)["run"]

    def upload(self, content: bytes) -> str:
        self.tokens += 1
        path = self.uploads / f"{self.tokens:040x}" / "blob"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self.service.uploads.register(path)
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

    def wait_until_ended(self, run: str, timeout_s: float = 30) -> dict:
        """Wait until the run is not queued any more; its state."""
        until(lambda: not self.state(run)["busy"], timeout_s)
        return self.state(run)


@pytest.fixture
def host(tmp_path, tiny_checkpoint) -> FakeHost:
    return FakeHost(tmp_path, tiny_checkpoint)


@pytest.fixture
def page(host, tmp_path, monkeypatch):
    """A page whose trainings use the fake worker."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(worker_module, "_program", lambda: FAKE_WORKER)
    monkeypatch.setattr(worker_module, "command_program", lambda arguments: "")
    page = Page(host, tmp_path / "gradio")
    yield page
    page.service.close()


@pytest.fixture
def page_with_images(page, pictures) -> Page:
    """A page with images in its draft."""
    page.add(pictures)
    return page


def file_contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- hostile requests --------------------------------------------------------------------------------------------

ODD_VALUES = [
    None, True, False, -1, 0, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", " ", "x", "..", "../..", "/etc/passwd",
    "\0", "\ud800", "x" * 5000, [], [[]], ["x"], {}, {"a": {"b": []}}, {"name": ["my-mug"]}, {"name": {"a": 1}, "steps": []},
]  # fmt: skip


LONG_ACTIONS = {"suggest", "sweep", "report", "share", "export", "describe", "try_prompts", "write_captions"}
"""They start processes, or write whole files, each time."""


class FailingWorker:
    """A worker that cannot start."""

    def __init__(self, request) -> None:
        json.dumps(request)

    def reply(self):
        raise TrainingFailed("no process for this test")

    def close(self) -> None:
        pass


@pytest.fixture
def page_with_run(page_with_images, host, tmp_path, monkeypatch):
    """A page with a finished run, and files around its folders that no request may touch."""
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    monkeypatch.setattr(launch, "Worker", FailingWorker)
    outside = tmp_path / "outside" / "2024-05-01T12-00-00"
    shutil.copytree(page_with_images.folder(run).path, outside)
    (host.embeddings_dir / "precious.safetensors").write_bytes(b"precious")
    return page_with_images, run


def test_arguments_of_any_type_do_no_harm(page_with_run, host, tmp_path, monkeypatch):
    page, run = page_with_run
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")  # whose ".." holds no thousand pictures
    valid = {
        "run": run, "after": 0, "page": "tab", "form": page.form(name="my-cup"), "draft": DRAFT, "token": "t", "path": "x",
        "name": "x", "id": "0000", "text": "x", "step": 1, "prompt": 0, "seed": 0, "full": False, "overwrite": False,
        "steps": 3, "sweep": "my-mug-1", "values": {"vectors": ["1", "2"]}, "about": {"author": "x"},
        "format": "a1111", "captioner": "blip", "limit": 10, "offset": 0, "replace": "x",
        "find": "x", "prefix": "x", "suffix": "x",
    }  # fmt: skip
    outside_before = file_contents(tmp_path / "outside"), (host.embeddings_dir / "precious.safetensors").read_bytes()
    calls = 0
    for do, action in page.service.actions().items():
        parameters = list(inspect.signature(action).parameters)
        for replaced in parameters:
            for value in ODD_VALUES[:: 5 if do in LONG_ACTIONS else 1]:
                page.ask(do, **{k: valid[k] for k in parameters} | {replaced: value})
                calls += 1
    assert calls > 1000
    assert (
        file_contents(tmp_path / "outside"),
        (host.embeddings_dir / "precious.safetensors").read_bytes(),
    ) == outside_before
    assert page.folder(run).settings.name == "my-mug", "it was never named rightly, so it is still there"
    assert {p.name for p in tmp_path.iterdir()} <= {"embeddings", "textual_inversion", "gradio", "outside", "work"}
    assert all(name_problem(p.stem) is None for p in host.embeddings_dir.glob("*.safetensors"))
    assert page.poll(run)["run"]["state"] == "finished"


def test_field_values_of_any_type_give_problems_or_errors(page_with_run):
    page, _ = page_with_run
    for option in [*form.field_names(False), "images", "model", "out", "runs_dir", "device", "vae", "unheard of"]:
        for value in ODD_VALUES:
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
def test_run_ids_outside_the_runs_folder_are_refused(page_with_run, tmp_path, run):
    page, _ = page_with_run
    before = file_contents(tmp_path)
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
    assert file_contents(tmp_path) == before


def test_very_long_name_is_checked_quickly(page):
    began = time.perf_counter()
    for name in ("a" * 100_000, "a b " * 30_000):
        assert page.ask("check", form={"name": name}, draft=DRAFT)["name"]["state"] == "bad"
    assert time.perf_counter() - began < 3


# --- the form ----------------------------------------------------------------------------------------------------


def test_form_defaults(page):
    reply = page.ask("form")
    assert reply["checkpoint"]["family"] == "sd1"
    assert reply["checkpoint"]["resolution"] == 64
    assert reply["values"]["steps"] == "500"
    assert not reply["hides_paths"]
    page.ask("check", form=reply["values"], draft=DRAFT)


def test_missing_checkpoint_is_a_problem_only_when_training(page, host, pictures):
    host.checkpoint = None
    assert page.ask("form")["checkpoint"] is None
    page.add(pictures)
    assert page.ask("check", form=page.form(name="my-mug"), draft=DRAFT)["checkpoint"] is None
    problems = page.train(name="my-mug")["problems"]
    assert [p["option"] for p in problems] == ["model"]


def test_unusable_checkpoint_is_reported(page, host, tmp_path):
    host.checkpoint = tmp_path / "broken.safetensors"
    host.checkpoint.write_bytes(b"")
    checkpoint = page.ask("form")["checkpoint"]
    assert checkpoint["family"] is None
    assert checkpoint["problem"] == "the file is empty"


@pytest.mark.parametrize(
    ("name", "state"),
    [("", "empty"), ("a/b", "bad"), ("mug", "word"), ("my-mug", "free"), ("my-cup", "taken"), ("MY-CUP", "taken")],
)
def test_name_states(page, host, name, state):
    (host.embeddings_dir / "my-cup.pt").touch()
    name_state = page.ask("check", form=page.form(name=name), draft=DRAFT)["name"]
    assert name_state["state"] == state
    assert name_state["suggestion"] == {"word": "my-mug", "taken": f"{name}-2"}.get(state, "")


def test_server_paths_are_refused_if_the_host_hides_them(page_with_images, host, pictures):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    host.hides_paths = True
    assert not {"template_file", "init_embedding"} & page_with_images.ask("form")["values"].keys()
    assert not {"template_file", "init_embedding"} & page_with_images.ask("settings", run=run)["form"].keys()
    for option in ("template_file", "init_embedding"):
        filled = page_with_images.form(name="my-cup") | {option: "/etc/passwd"}
        for reply in (
            page_with_images.ask("check", form=filled, draft=DRAFT),
            page_with_images.ask("train", form=filled, draft=DRAFT, token=option),
        ):
            assert [p["option"] for p in reply["problems"]] == [option]
    assert "does not let" in page_with_images.ask("folder", draft="e" * 32, path=str(pictures))["error"]
    assert page_with_images.ask("pictures", draft="e" * 32)["pictures"] == []
    assert str(host.runs_dir) not in page_with_images.ask("open_folder", run=run)["error"]
    host.hides_paths = False
    assert len(page_with_images.ask("folder", draft="e" * 32, path=f' "{pictures}" ')["pictures"]) == 4


# --- starting ----------------------------------------------------------------------------------------------------


def test_repeated_token_starts_one_run(page_with_images, host):
    replies = []
    clicks = [
        threading.Thread(target=lambda: replies.append(page_with_images.train(name="my-mug", steps="2", token="one")))
        for _ in range(3)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert replies[0]["run"]
    assert all(reply == replies[0] for reply in replies)
    assert len(list(host.runs_dir.glob("my-mug/*"))) == 1
    page_with_images.wait_until_ended(replies[0]["run"])


def test_name_in_training_is_refused(page_with_images):
    run = page_with_images.train(name="my-mug", steps="100000")["run"]
    for name in ("my-mug", "MY-MUG"):
        (problem,) = page_with_images.train(name=name)["problems"]
        assert (problem["option"], "in training" in problem["message"]) == ("name", True)
        assert (
            page_with_images.ask("check", form=page_with_images.form(name=name), draft=DRAFT)["name"]["state"]
            == "running"
        )
    assert page_with_images.ask("delete", run=run)["error"].startswith("Stop")
    page_with_images.ask("stop", run=run)
    page_with_images.wait_until_ended(run)


def test_second_run_is_queued(page_with_images):
    first, second = (page_with_images.train(name=name, steps="100000")["run"] for name in ("my-disc", "my-ring"))
    reply = page_with_images.poll(second)
    assert (reply["active"], [waiting["run"] for waiting in reply["queue"]]) == (first, [second])
    assert (reply["run"]["state"], reply["run"]["place"], reply["run"]["busy"]) == ("queued", 1, True)
    until(lambda: page_with_images.poll()["lending"] == {"run": first, "name": "my-disc"})
    assert [run["state"] for run in sorted(page_with_images.ask("runs")["runs"], key=lambda run: run["name"])] == [
        "running",
        "queued",
    ]
    assert page_with_images.ask("stop", run=first) == {}
    until(lambda: page_with_images.poll()["active"] == second)
    assert "not running" in page_with_images.ask("stop", run=first)["error"]
    page_with_images.ask("stop", run=second)
    assert page_with_images.wait_until_ended(second)["state"] == "stopped"


def test_no_run_without_images(page, host):
    (problem,) = page.train(name="my-mug")["problems"]
    assert problem["option"] == "images"
    assert not list(host.runs_dir.glob("my-mug/*"))
    assert page.poll()["active"] is None


def test_no_run_if_images_cannot_be_copied(page_with_images, host, monkeypatch):
    def full(draft, target, *more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_with_images.service._drafts, "copy_to_run", full)
    assert "No space left" in page_with_images.train(name="my-mug")["error"]
    assert not list(host.runs_dir.glob("my-mug/*"))
    assert page_with_images.poll()["active"] is None


CAPTIONS = {
    "auto": ["a red mug", ""],
    "txt": ["a red mug", ""],
    "none": ["", ""],
    "file-name": ["mug on a table", "another one"],
}


@pytest.mark.parametrize("source", CAPTIONS)
def test_run_has_the_requested_captions(page, pictures, source):
    for name, path in zip(("mug_on_a_table.png", "another one.png"), sorted(pictures.iterdir()), strict=False):
        page.ask("add", draft=DRAFT, path=page.upload(path.read_bytes()), name=name)
    page.ask("caption", draft=DRAFT, id="0000", text="a red mug")
    run = page.train(name="my-mug", steps="2", captions=source)["run"]
    texts = [page.folder(run).images / f"{i:04d}.txt" for i in range(2)]
    assert [text.read_text() if text.exists() else "" for text in texts] == CAPTIONS[source]
    page.wait_until_ended(run)


# --- the queue and the form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_empty_name_is_called_empty_whatever_is_in_the_folder(page_with_images, host, name):
    for file in ("my-cup.safetensors", "picture.png", "other.webp"):  # pictures that hold no word have no name either
        (host.embeddings_dir / file).touch()
    problems = page_with_images.train(name=name)["problems"]
    (problem,) = [problem for problem in problems if problem["option"] == "name"]
    assert "name is empty" in problem["message"]
    assert "exists" not in problem["message"]
    assert page_with_images.ask("check", form=page_with_images.form(name=name), draft=DRAFT)["name"]["state"] == "empty"


def test_waiting_runs_have_names_and_times_and_change_places(page_with_images):
    first, second, third = (
        page_with_images.train(name=name, steps="100000")["run"] for name in ("my-disc", "my-ring", "my-bowl")
    )
    waiting = page_with_images.poll()["queue"]
    assert [(row["run"], row["name"], row["steps"]) for row in waiting] == [
        (second, "my-ring", 100_000), (third, "my-bowl", 100_000),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in waiting)
    for after, order in ((1, [third, second]), (99, [second, third]), (-5, [third, second])):
        assert page_with_images.ask("move", run=third, after=after) == {}
        assert [row["run"] for row in page_with_images.poll()["queue"]] == order
    assert "no longer waiting" in page_with_images.ask("move", run=first, after=1)["error"], "it trains already"
    assert page_with_images.ask("stop", run=third) == {}
    assert [row["run"] for row in page_with_images.poll()["queue"]] == [second]
    assert "no longer waiting" in page_with_images.ask("move", run=third, after=1)["error"]
    assert page_with_images.ask("resume", run=third) == {"run": third}, "a removal can be undone"
    assert [row["run"] for row in page_with_images.poll()["queue"]] == [second, third]
    page_with_images.ask("stop", run=first)
    until(lambda: page_with_images.poll()["active"] == second)


def test_time_left_goes_from_expected_to_measured(page_with_images):
    run = page_with_images.train(name="my-disc", steps="100000")["run"]
    view = page_with_images.service._queue_view
    expected = view._expected_seconds(page_with_images.folder(run).path)
    details = {"id": run, "state": "loading", "step": 0, "steps": 100, "seconds_left": None}
    assert view.seconds_left(details) == expected
    started = {**details, "state": "training", "step": 10, "seconds_left": 50.0}
    assert min(50, expected) < view.seconds_left(started) < max(50, expected)
    assert view.seconds_left({**started, "step": 60, "seconds_left": 20.0}) == 20
    assert view.seconds_left({**started, "state": "finished"}) is None
    until(lambda: page_with_images.state(run)["step"] > 0)
    assert page_with_images.state(run)["seconds_left"] > 0
    page_with_images.ask("stop", run=run)
    assert page_with_images.wait_until_ended(run)["seconds_left"] is None


def test_form_has_a_time_before_any_training(page_with_images):
    estimate = page_with_images.ask("check", form=page_with_images.form(name="my-mug"), draft=DRAFT)["estimate"]
    assert estimate["seconds"] > 0
    assert estimate["text"].startswith("About ")


def test_pictures_show_the_prompts_they_are_trained_with(page_with_images):
    first, second, *_ = [picture["id"] for picture in page_with_images.ask("pictures", draft=DRAFT)["pictures"]]
    page_with_images.ask("caption", draft=DRAFT, id=first, text="in the snow, at night")
    page_with_images.ask("caption", draft=DRAFT, id=second, text="an old my-mug under a tree")
    filled = page_with_images.form(name="my-mug", vectors="2")

    def prompts(**changes):
        reply = page_with_images.ask("crops", draft=DRAFT, form=filled | changes)
        return [crop["prompt"] for crop in reply["crops"]], reply["templates"]

    texts, templates = prompts()
    assert templates > 5
    assert texts[0].endswith(", in the snow, at night")
    assert "my-mug" in texts[0]
    assert texts[1] == "an old my-mug under a tree", "a caption that names the word is used alone"
    assert all("my-mug" in text and "snow" not in text for text in texts[2:])
    assert all("snow" not in text for text in prompts(captions="none")[0])
    assert all("snow" not in text for text in prompts(caption_dropout="1")[0])
    assert prompts(name="")[0] == [""] * 4
    for changes, expected in ((filled, "snow"), (filled | {"captions": "none"}, None)):
        tokens = page_with_images.ask("check", draft=DRAFT, form=changes)["sequence"]
        assert [token["text"] for token in tokens if token["ours"]] == ["my-mug 1/2", "my-mug 2/2"]
        assert any(token["text"].strip("-") == "snow" for token in tokens) == bool(expected)


def test_prompts_typed_into_the_form_are_trained_with(page_with_images):
    page, own = page_with_images, "a plain [name]\nthe back of [name], [filewords]"
    crops = page.ask("crops", draft=DRAFT, form=page.form(name="my-mug", template_file=own))
    assert crops["templates"] == 2
    assert {crop["prompt"].split(",")[0] for crop in crops["crops"]} <= {"a plain my-mug", "the back of my-mug"}
    run = page.train(name="my-mug", template_file=own, steps="1", preview_every="0")["run"]
    page.wait_until_ended(run)
    folder = page.folder(run)
    assert folder.settings.template_file.read_text() == own
    folder.templates.write_text(own + "\n")  # as a training keeps them
    page.train(template_file="a [name]", name="my-cup", steps="1", preview_every="0")
    assert page.ask("settings", run=run)["form"]["template_file"].strip() == own
    named = page.train(template_file=str(folder.templates), name="my-jug", steps="1", preview_every="0")["run"]
    assert page.folder(named).settings.template_file == folder.templates


def test_a_picture_is_shown_large(page_with_images):
    first = page_with_images.ask("pictures", draft=DRAFT)["pictures"][0]
    assert page_with_images.ask("picture", draft=DRAFT, id=first["id"])["image"].startswith("data:image/jpeg")
    for unknown in ("9999", "../0001", None):
        assert "no longer" in page_with_images.ask("picture", draft=DRAFT, id=unknown)["error"]


@pytest.mark.parametrize(
    ("display", "hides_paths", "opens"), [("", False, False), (":0", False, True), (":0", True, False)]
)
def test_folders_are_offered_only_where_they_open(page, host, monkeypatch, display, hides_paths, opens):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    host.hides_paths = hides_paths
    assert page.ask("form")["opens_folders"] is opens


def test_removed_pictures_come_back(page_with_images, host):
    page = page_with_images

    def pictures():
        return [(picture["id"], picture["caption"]) for picture in page.ask("pictures", draft=DRAFT)["pictures"]]

    page.ask("caption", draft=DRAFT, id="0001", text="on a table")
    before = pictures()
    assert len(before) == 4
    for change, left in (
        (lambda: page.ask("clear", draft=DRAFT), 0),
        (lambda: page.ask("remove", draft=DRAFT, id="0001"), 3),
        (lambda: page.ask("example", draft=DRAFT), 6),
    ):
        change()
        assert len(pictures()) == left
        assert len(page.ask("undo", draft=DRAFT)["pictures"]) == 4
        assert pictures() == before
        page.ask("undo", draft=DRAFT)
        assert len(pictures()) == left, "undone and done again"
        page.ask("undo", draft=DRAFT)
    assert "Nothing to undo" in page.ask("undo", draft="a" * 32)["error"]
    page.ask("clear", draft=DRAFT)
    assert page.ask("discard", draft=DRAFT) == {}
    assert "Nothing to undo" in page.ask("undo", draft=DRAFT)["error"]
    assert not [path for path in (host.runs_dir / ".drafts").rglob("*") if path.is_file()]


def test_second_window_has_pictures_of_its_own(page_with_images):
    copy = page_with_images.ask("duplicate", draft=DRAFT)["draft"]
    page_with_images.ask("remove", draft=copy, id="0000")
    page_with_images.ask("caption", draft=copy, id="0001", text="changed")
    originals = page_with_images.ask("pictures", draft=DRAFT)["pictures"]
    assert [(picture["id"], picture["caption"]) for picture in originals[:2]] == [("0000", ""), ("0001", "")]
    assert len(page_with_images.ask("pictures", draft=copy)["pictures"]) == 3


def test_prompts_to_try_name_the_word_and_wait_for_trainings(page_with_images):
    page = page_with_images
    run = page.train(name="my-mug", steps="2")["run"]
    page.wait_until_ended(run)
    assert "not saved" in page.ask("try_prompts", run=run, text="a my-mug")["error"], "there is nothing to try"
    page.folder(run).embedding.write_bytes(b"x")
    for text in ("", " \n ", "a house", "a my-mug\n" * 7, "a my-mug " * 100):
        (problem, *_) = page.ask("try_prompts", run=run, text=text)["problems"]
        assert problem["option"] == "try_prompt"
    assert page.ask("try_prompts", run=run, text="a [name] on a table\nred MY-MUG")["total"] == 2
    until(lambda: page.poll()["trying"]["total"] == 0)
    assert page.poll()["trying"]["error"], "the child of these tests makes nothing, and that is said"
    busy = page.train(name="my-disc", steps="100000")["run"]
    assert "being trained" in page.ask("try_prompts", run=run, text="a my-mug")["error"]
    page.ask("stop", run=busy)
    page.wait_until_ended(busy)


# --- following ---------------------------------------------------------------------------------------------------


def test_damaged_runs_are_skipped_and_can_be_deleted(page_with_images, host):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    for number, text in enumerate(("", "{}", '{"settings": {"steps": "many"}}', "\0", "[" * 100_000)):
        broken = host.runs_dir / "broken" / f"2099-01-0{number + 1}T00-00-00"
        broken.mkdir(parents=True)
        (broken / "settings.json").write_text(text)
        (broken / "events.jsonl").write_text('{"kind": "step"\n\0\n')
    page_with_images.service._runs.invalidate()
    reply = page_with_images.poll(run)
    assert reply.get("run", {}).get("state") == "finished"
    assert [listed["id"] for listed in page_with_images.ask("runs")["runs"]] == [run]
    page_with_images.poll(f"broken/{broken.name}")
    assert page_with_images.ask("delete", run=f"broken/{broken.name}") == {}, "and it can be got rid of"


def test_poll_returns_each_event_once_in_order(page_with_images):
    run = page_with_images.train(name="my-mug", steps="40")["run"]
    after, steps = 0, []
    while True:
        reply = page_with_images.poll(run, after)["run"]
        steps += [event["step"] for event in reply["events"] if event["kind"] == "step"]
        after = reply["after"]
        if not reply["busy"] and not reply["more"]:
            break
    assert steps == list(range(1, 41))
    assert page_with_images.poll(run, after)["run"]["events"] == []
    assert page_with_images.poll(run, 10**12)["run"]["events"] == []


def test_event_longer_than_a_chunk_is_read(page_with_images):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    log = EventLog(page_with_images.folder(run).events)
    log.append("preview", step=2, prompt_index=0, seed_index=0, prompt="x" * 700_000, seed=1, file="x")
    log.append("finished", step=2, file="")
    after = 0
    for _ in range(5):
        reply = page_with_images.poll(run, after)["run"]
        after = reply["after"]
    assert not reply["more"]
    assert after == page_with_images.folder(run).events.stat().st_size


def test_run_of_another_process_is_not_touched(page_with_images, host):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    folder = page_with_images.folder(run)
    EventLog(folder.events).append("loading", checkpoint="x", folder="x")
    lock = RunLock(folder.path / "lock")
    lock.acquire()
    try:
        before = folder.events.read_bytes()
        reply = page_with_images.poll(run)
        assert reply["run"]["state"] == "loading"
        assert not reply["run"]["resumable"]
        assert reply["active"] == run
        assert "nother" in page_with_images.ask("resume", run=run)["error"]
        assert "error" in page_with_images.ask("delete", run=run)
        assert folder.events.read_bytes() == before
    finally:
        lock.release()
    assert page_with_images.poll(run)["run"]["state"] == "stopped"
    assert page_with_images.poll(run)["run"]["resumable"]
    assert [listed["state"] for listed in page_with_images.ask("runs")["runs"]] == ["interrupted"]


# --- generating meanwhile ----------------------------------------------------------------------------------------


def test_trial_embedding_is_removed_however_training_ends(page_with_images, host):
    trial = host.embeddings_dir / "my-mug-preview.safetensors"
    for ending in ("stopped", "failed"):
        reply = page_with_images.train(name="my-mug", steps="100000", keep_generating=True)
        run, folder = reply["run"], page_with_images.folder(reply["run"])
        (folder.path / "snapshots").mkdir()
        folder.snapshot(5).write_bytes(b"five")
        until(trial.exists)
        folder.snapshot(10).write_bytes(b"ten")
        until(lambda: trial.read_bytes() == b"ten")
        assert not host.lock.locked()
        assert page_with_images.poll(run)["lending"] is None
        assert page_with_images.poll(run)["run"]["sharing"]
        if ending == "stopped":
            page_with_images.ask("stop", run=run)
        else:
            child = page_with_images.service._queue.find(folder.path).worker
            os.kill(child._process.pid, signal.SIGKILL)
        assert page_with_images.wait_until_ended(run)["state"] == ending
        assert not trial.exists()
        until(lambda: host.reloaded_names.count("my-mug-preview") >= 3)
        host.reloaded_names.clear()
        assert host.lent_for == []


def test_foreign_preview_embedding_is_not_touched(page_with_images, host):
    theirs = host.embeddings_dir / "my-mug-preview.safetensors"
    theirs.write_bytes(b"somebody else's")
    run = page_with_images.train(name="my-mug", steps="30", keep_generating=True)["run"]
    (page_with_images.folder(run).path / "snapshots").mkdir()
    page_with_images.folder(run).snapshot(5).write_bytes(b"five")
    page_with_images.wait_until_ended(run)
    assert theirs.read_bytes() == b"somebody else's"


def test_stale_trial_embeddings_are_removed_at_start(page_with_images, host):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    trial, other = host.embeddings_dir / "my-mug-preview.safetensors", host.embeddings_dir / "other.safetensors"
    for target in (trial, other):
        target.write_bytes(b"left")
    mark = page_with_images.folder(run).path / "trial.json"
    mark.write_text(json.dumps(str(trial)))
    with_lock = RunLock(page_with_images.folder(run).path / "lock")
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
def test_images_and_snapshots_are_deleted_only_after_finishing(page_with_images, host, keeps):
    host.keep_images = host.keep_snapshots = keeps
    run = page_with_images.train(name="my-mug", steps="100000")["run"]
    folder = page_with_images.folder(run)
    (folder.path / "snapshots").mkdir()
    folder.snapshot(1).write_bytes(b"one")
    until(lambda: "step" in event_kinds(folder))
    page_with_images.ask("stop", run=run)
    assert page_with_images.wait_until_ended(run)["state"] == "stopped"
    assert len(list(folder.images.glob("*.png"))) == 4
    assert folder.snapshot(1).exists()
    (folder.path / "how.json").write_text('{"steps": 2}')
    assert page_with_images.ask("resume", run=run) == {"run": run}
    assert page_with_images.ask("resume", run=run) == {"run": run}, "the same click twice"
    assert page_with_images.wait_until_ended(run)["state"] == "finished"
    assert folder.images.exists() == keeps
    assert folder.snapshot(1).exists() == keeps


def test_resume_without_kept_images_is_refused(page_with_images, host, pictures):
    """Not with the images in the page's draft, which may be others by now."""
    host.keep_images = False
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    assert not page_with_images.wait_until_ended(run)["resumable"]
    assert "did not keep" in page_with_images.ask("reuse", draft=DRAFT, run=run)["error"]
    with pytest.raises(BadInput) as raised:
        resume(page_with_images.folder(run), {"steps": "900"})
    assert [problem.option for problem in raised.value.problems] == ["images"]


def test_reuse_the_images_of_a_run(page_with_images):
    run = page_with_images.train(name="my-mug", steps="2")["run"]
    page_with_images.wait_until_ended(run)
    page_with_images.ask("clear", draft=DRAFT)
    assert len(page_with_images.ask("reuse", draft=DRAFT, run=run)["pictures"]) == 4
    assert len(page_with_images.ask("crops", draft=DRAFT, form=page_with_images.form())["crops"]) == 4


# --- real trainings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lifecycle(tiny_checkpoint, pictures, tmp_path_factory):
    """A real run that trains while the host may generate, is stopped, and resumes with the GPU for itself."""
    folder = tmp_path_factory.mktemp("lifecycle")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
    host = FakeHost(folder, tiny_checkpoint)
    page = Page(host, folder / "gradio")
    page.add(pictures)
    run = page.train(
        name="my-disc", steps="5000", snapshot_every="20", preview_every="5000", preview_steps="1", keep_generating=True
    )["run"]
    record = {"host": host, "page": page, "run": run}
    trial = host.embeddings_dir / "my-disc-preview.safetensors"
    until(trial.exists, 60)
    record["trial"] = load_file(trial), host.lock.locked(), page.poll(run)
    record["sample"] = page.ask("sample", run=run)
    until(lambda: len({step for step, _, _ in page.folder(run).history().previews}) > 1, 60)
    page.ask("stop", run=run)
    record["stopped"] = page.wait_until_ended(run)
    record["left"] = {path.name for path in host.embeddings_dir.iterdir()}
    record["more"] = page.ask("resume", run=run, steps=record["stopped"]["step"] + 40)
    until(lambda: page.state(run)["step"] > record["stopped"]["step"], 60)
    record["handover"] = page.poll(run), host.lock.locked()
    record["finished"] = page.wait_until_ended(run, 60)
    record["after handover"] = page.poll(), host.lock.locked(), host.is_gpu_lent
    yield record
    page.service.close()
    patch.undo()


def test_trial_embedding_while_training(lifecycle):
    tensors, locked, reply = lifecycle["trial"]
    assert next(iter(tensors.values())).shape[0] == 3
    assert not locked
    assert (reply["active"], reply["lending"], reply["run"]["sharing"]) == (lifecycle["run"], None, True)
    assert lifecycle["left"] == set(), "a word that is not finished is none of the host's"
    assert lifecycle["host"].lent_for == ["my-disc"], "only when it went on"


def test_previews_on_request(lifecycle):
    assert lifecycle["sample"] == {}
    steps = {e["step"] for e in lifecycle["page"].poll(lifecycle["run"])["run"]["events"] if e["kind"] == "preview"}
    assert {0, lifecycle["finished"]["step"]} < steps


def test_poll_reports_the_gpu_handover(lifecycle):
    reply, locked = lifecycle["handover"]
    assert reply["lending"] == {"run": lifecycle["run"], "name": "my-disc"}
    assert locked
    reply, locked, lent = lifecycle["after handover"]
    assert reply["lending"] is reply["active"] is None
    assert not locked
    assert not lent


def test_stop_and_resume_a_run(lifecycle):
    stopped, more = lifecycle["stopped"], lifecycle["finished"]
    assert (stopped["state"], stopped["resumable"], stopped["message"]) == ("stopped", True, "")
    assert lifecycle["more"] == {"run": lifecycle["run"]}
    assert (more["state"], more["step"], more["steps"]) == ("finished", stopped["step"] + 40, stopped["step"] + 40)
    assert {path.name for path in lifecycle["host"].embeddings_dir.iterdir()} >= {
        "my-disc.safetensors",
        "my-disc.preview.png",
    }
    assert "my-disc" in lifecycle["host"].reloaded_names


def test_finished_run_in_the_list(lifecycle):
    (listed,) = lifecycle["page"].ask("runs")["runs"]
    assert (listed["id"], listed["state"], listed["pictures"]) == (lifecycle["run"], "finished", True)
    assert listed["thumb"].startswith("data:image/jpeg")
    assert listed["loss"] > 0
    assert listed["bytes"] > 0


def test_install_another_step_and_reload_its_settings(lifecycle):
    page, run = lifecycle["page"], lifecycle["run"]
    assert page.ask("use", run=run, step=20, name="my-disc-20") == {"name": "my-disc-20"}
    assert {e["name"] for e in page.ask("embeddings")["embeddings"] if e["fits"]} >= {"my-disc", "my-disc-20"}
    assert page.ask("settings", run=run)["form"]["steps"] == str(lifecycle["finished"]["steps"])
    assert page.ask("use", run=run, step=21)["error"].startswith("This step was not saved")


def test_settings_of_a_preset_are_the_preset_again(lifecycle):
    """What was left to the training is left to it again: the values that it found are those of these pictures."""
    page, run = lifecycle["page"], lifecycle["run"]
    asked, reused = page.form(name="my-disc"), page.ask("settings", run=run)["form"]
    left_to_it = {
        "learning_rate",
        "lr_schedule",
        "ema_decay",
        "captions",
        "acceleration",
        "init_text",
        "validate_every",
    }
    assert {name for name in left_to_it if reused[name] != asked[name]} == set()
    assert page.ask("check", form={**reused, "steps": "500"}, draft=DRAFT)["preset"] == "balanced"


def test_page_learns_which_step_is_in_use(lifecycle):
    page, run, host = lifecycle["page"], lifecycle["run"], lifecycle["host"]
    word = host.embeddings_dir / "my-disc.safetensors"
    before = word.read_bytes()
    page.ask("use", run=run, step=20)
    assert page.state(run)["used_step"] == 20
    word.write_bytes(b"another word")
    assert page.state(run)["used_step"] is None
    word.unlink()
    assert page.state(run)["used_step"] is None
    word.write_bytes(before)
    assert page.state(run)["used_step"] in page.state(run)["snapshots"] + [lifecycle["finished"]["step"]]


class PreflightOnlyWorker:
    """A worker that only checks its request, in this process."""

    def __init__(self, request) -> None:
        self.request = json.loads(json.dumps(request))

    def reply(self):
        preflight(*parse(self.request["settings"]))

    def close(self) -> None:
        pass


def test_all_problems_are_reported_together_with_form_labels(page_with_images, host, monkeypatch):
    page = page_with_images
    monkeypatch.setattr(launch, "Worker", PreflightOnlyWorker)
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


def test_taken_name_offers_overwrite_or_suggestion(page_with_images, host):
    """The page offers `overwrite`, or the suggested name."""
    (host.embeddings_dir / "my-cup.safetensors").write_bytes(b"the old one")
    suggestion = page_with_images.ask("check", form=page_with_images.form(name="my-cup"), draft=DRAFT)["name"][
        "suggestion"
    ]
    assert suggestion == "my-cup-2"
    for changes in ({"name": "my-cup", "overwrite": True}, {"name": suggestion}):
        run = page_with_images.train(steps="2", **changes)["run"]
        assert page_with_images.wait_until_ended(run)["state"] == "finished"
        assert page_with_images.folder(run).settings.overwrite == ("overwrite" in changes)


# --- files that change meanwhile --------------------------------------------------------------------------------


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


def test_settings_of_older_runs_are_recognized_as_automatic(new_run):
    """They do not say what was left to the training, but it would find the same again."""
    (new_run.path / "auto.json").unlink()
    auto = form_to_settings.auto_options(new_run)
    assert {"learning_rate", "lr_schedule", "ema_decay", "validate_every", "timestep_sampling"} <= set(auto)
    new_run.store_settings(dataclasses.replace(new_run.settings, learning_rate="0.00123"))
    assert "learning_rate" not in form_to_settings.auto_options(new_run)
    new_run.settings.model.unlink()
    assert not form_to_settings.auto_options(new_run)


def test_checkpoint_deleted_while_training(new_run):
    def delete_while_training(event) -> None:
        if event.kind == "step":
            new_run.settings.model.unlink(missing_ok=True)

    assert execute_run(new_run, on_event=delete_while_training)
    assert new_run.embedding.exists()


def test_checkpoint_deleted_before_resume(new_run):
    assert not execute_run(new_run, should_stop=lambda: new_run.state.exists() or "step" in event_kinds(new_run))
    before = file_contents(new_run.path)
    new_run.settings.model.unlink()
    with pytest.raises(UnusableFile, match="put it back to go on"):
        resume(new_run, {})
    assert file_contents(new_run.path) == before


def test_unwritable_out_folder_keeps_the_embedding_in_the_run(new_run):
    def delete_while_training(event) -> None:
        if event.kind == "step":
            new_run.settings.out.touch()

    with pytest.raises(TrainingFailed, match="the new embedding is"):
        execute_run(new_run, on_event=delete_while_training)
    assert new_run.embedding.exists()
    assert event_kinds(new_run)[-2:] == ["failed", "report"]


def test_advice_is_given_in_the_forms_words(page_with_run, monkeypatch):
    page, run = page_with_run
    items = [advice.Advice("A lower --learning-rate", "it is high"), advice.Advice("More pictures", "there are few")]
    monkeypatch.setattr(advice, "advice", lambda facts: items[: 1 + (facts.settings.name == "my-mug")])
    assert page.ask("advice", run=run)["advice"] == [
        {"title": "A lower “Learning rate”", "reason": "it is high"},
        {"title": "More pictures", "reason": "there are few"},
    ]
    assert "error" in page.ask("advice", run="my-mug/2001-01-01T00-00-00")


def test_a_preset_includes_its_early_stop(page):
    check = lambda **changes: page.ask("check", form=page.form(**changes), draft=DRAFT)  # noqa: E731
    assert check()["preset"] == "balanced"
    assert check(early_stop=False)["preset"] == "custom"
    assert check(steps="200")["preset"] == "quick"
    assert check()["presets"]["quick"].startswith("up to 200 steps")
    assert check(early_stop=False)["presets"]["thorough"].startswith("1500 steps")
