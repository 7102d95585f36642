"""Start words for the pictures of a page: a child process tries them, with the GPU handed over to it."""

import json
import threading

import pytest
from test_queue import until
from test_training_service import DRAFT

from lib_ti.runs import worker
from lib_ti.webui.forms import suggestions

WORDS = [{"text": "mug", "gain": 0.12, "share": 0.8}, {"text": "cup", "gain": 0.1, "share": 0.7}]
RANKS = [
    {"state": "running", "done": 1, "total": 2, "words": WORDS[1:]},
    {"state": "done", "done": 2, "total": 2, "words": WORDS, "vectors": 4},
]


def program(*steps: str) -> str:
    return "import json, sys, time\n" + "\n".join(steps)


def printing(*replies) -> str:
    return "\n".join(f"print({json.dumps(reply)!r}, flush=True)" for reply in replies)


@pytest.fixture
def commands(monkeypatch):
    """The arguments of the commands that were started. `commands.program` runs in their place."""

    class Commands(list):
        program = program("print('Some library welcomes you')", printing(*RANKS))

    started = Commands()
    monkeypatch.setattr(worker, "command_program", lambda arguments: (started.append(arguments), started.program)[1])
    return started


def suggest(page, **changes):
    return page.ask("suggest", form=page.form(**changes), draft=DRAFT)


def ended(page):
    return until(lambda: (status := page.ask("suggestions"))["state"] != "running" and status)


def test_words_are_ranked_with_the_gpu_handed_over(page, commands):
    assert page.ask("suggestions")["state"] == "idle"
    assert suggest(page, name="my-mug", init_text="cup", kind="style")["state"] == "running"
    assert ended(page) == {
        "state": "done", "done": 2, "total": 2, "words": WORDS, "vectors": 4, "message": "",
    }  # fmt: skip
    assert page.host.lent_for == [suggestions.LABEL]
    until(lambda: not page.host.lock.locked())
    (arguments,) = commands
    assert arguments[:2] == ["suggest", "--json"]
    assert {"--name=my-mug", "--init-text=cup", "--kind=style", "--device=cpu"} <= {*arguments}
    assert not any(argument.startswith(("--out", "--steps", "--runs-dir")) for argument in arguments)


def test_progress_is_told_and_cancel_ends_the_process(page, commands):
    commands.program = program(printing(RANKS[0]), "time.sleep(60)")
    suggest(page)
    status = until(lambda: (s := page.ask("suggestions"))["done"] and s)
    assert (status["state"], status["done"], status["words"]) == ("running", 1, WORDS[1:])
    assert page.poll()["lending"] == {"run": None, "name": suggestions.LABEL}
    suggest(page)  # a second click
    assert len({thread for thread in threading.enumerate() if thread.name == "textual-inversion-suggest"}) == 1
    page.ask("cancel_suggest")
    assert ended(page)["state"] == "idle"
    until(lambda: not page.host.lock.locked())
    assert page.poll()["lending"] is None


def test_waiting_for_the_host_can_be_cancelled(page, commands):
    with page.host.lock:
        suggest(page)
        assert page.ask("suggestions")["message"] == "Waiting for the WebUI"
        page.ask("cancel_suggest")
        assert ended(page)["state"] == "idle"
    assert page.host.lent_for == []


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (program("sys.exit('there is not enough memory')"), "there is not enough memory"),
        (program("sys.exit(3)"), "exit code 3"),
        (
            program(printing(RANKS[0], {"state": "failed", "message": "no picture can be read"})),
            "no picture can be read",
        ),
    ],
)
def test_failure_has_its_reason(page, commands, failing, message):
    commands.program = failing
    suggest(page)
    assert (ended(page)["state"], page.ask("suggestions")["message"]) == ("failed", message)


def test_failing_host_is_a_failure(page, commands):
    page.host.fails.add("lend")
    suggest(page)
    assert "the model cannot leave" in ended(page)["message"]
    until(lambda: not page.host.lock.locked())


def test_what_is_missing_is_said(page, commands):
    page.host.checkpoint = None
    reply = page.ask("suggest", form=page.form(), draft="f" * 32)
    assert [problem["option"] for problem in reply["problems"]] == ["images", "model"]
    assert commands == []


def test_text_that_looks_like_an_option_stays_a_value(page, commands):
    suggest(page, init_text="--device")
    ended(page)
    assert "--init-text=--device" in commands[0]
