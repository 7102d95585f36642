"""Sweeps and reports as the page asks for them: through the JSON bridge, with real trainings."""

import pytest
from test_queue import until
from test_training_service import DRAFT, Page

from lib_ti.runs.sweeps.grid import MAX_RUNS
from lib_ti.runs.sweeps.sweep import find_sweeps


def sweep(page: Page, values: dict, **changes):
    page.tokens += 1
    form = page.form(name="my-mug", steps="2", validate_every="1", **changes)
    return page.ask("sweep", form=form, draft=DRAFT, token=str(page.tokens), values=values)


def test_sweep_is_queued_trained_and_compared(page):
    reply = sweep(page, {"vectors": ["1", "2"]})
    assert reply["runs"][0].startswith("my-mug-v1/"), reply
    assert len(reply["runs"]) == 2
    for run in reply["runs"]:
        assert page.wait_until_ended(run, 120)["state"] == "finished"
    [row] = page.ask("sweeps")["sweeps"]
    assert (row["id"], row["state"], row["done"], row["total"]) == (reply["sweep"], "finished", 2, 2)
    assert row["values"] == {"vectors": ["1", "2"]}
    assert [(r["name"], r["values"], r["state"], r["step"]) for r in row["runs"]] == [
        ("my-mug-v1", {"vectors": "1"}, "finished", 2),
        ("my-mug-v2", {"vectors": "2"}, "finished", 2),
    ]
    assert all(isinstance(r["change"], float) and isinstance(r["interval"], float) for r in row["runs"])
    assert row["best"]["run"] in reply["runs"]
    assert row["best"]["reason"]
    assert "2 of 2 finished" in page.ask("comparison", sweep=row["id"])["html"]
    [stored] = find_sweeps(page.host.runs_dir)
    until(stored.comparison.exists, 10)  # written when the last run has ended
    assert page.ask("resume_sweep", sweep=row["id"]) == {"runs": []}
    assert "my-mug-v1" in page.ask("report", run=reply["runs"][0])["html"]

    # pictures of an earlier training beside those of the draft
    reply = sweep(page, {"images": ["", reply["runs"][0]]}, overwrite=True)
    [row] = [row for row in page.ask("sweeps")["sweeps"] if row["id"] == reply["sweep"]]
    assert row["values"]["images"] == ["new pictures", reply_of(row)]
    assert page.ask("stop_sweep", sweep=row["id"]) == {}
    for run in reply["runs"]:
        page.wait_until_ended(run, 120)
    for run in reply["runs"]:
        assert len([*page.folder(run).images.glob("*.png")]) == 4
        assert page.folder(run).settings.images == page.folder(run).images
    [row] = [row for row in page.ask("sweeps")["sweeps"] if row["id"] == reply["sweep"]]
    assert row["state"] in ("stopped", "finished")
    for run in reply["runs"]:
        assert page.ask("delete", run=run) == {}
    assert reply["sweep"] not in [row["id"] for row in page.ask("sweeps")["sweeps"]]


def reply_of(row: dict) -> str:
    """The run whose pictures the second run of a sweep has."""
    return row["runs"][1]["values"]["images"]


def test_repeated_click_starts_nothing_more(page):
    form = page.form(name="my-mug", steps="1")
    arguments = {"form": form, "draft": DRAFT, "token": "same", "values": {"vectors": ["1", "2"]}}
    assert page.ask("sweep", **arguments) == page.ask("sweep", **arguments)
    assert len([*find_sweeps(page.host.runs_dir)]) == 1


def test_problems_of_all_are_reported_and_nothing_is_left(page):
    reply = sweep(page, {"vectors": ["1", "99"], "learning_rate": ["0.01", "x"]}, preview_guidance="-1")
    options = [problem["option"] for problem in reply["problems"]]
    assert {"vectors", "learning_rate", "preview_guidance"} <= set(options)
    assert not [*page.host.runs_dir.glob("my-mug*")]
    assert page.ask("sweeps") == {"sweeps": []}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"out": ["a", "b"]}, "cannot have several values"),
        ({"vectors": "1 2"}, "is not a list of values"),
        ({"vectors": ["1"]}, "needs several values"),
        ({"seed": [*map(str, range(MAX_RUNS + 1))]}, "too many for one sweep"),
    ],
)
def test_values_that_make_no_sweep_are_refused(page, values, reason):
    assert any(reason in problem["message"] for problem in sweep(page, values)["problems"])


def test_options_of_a_sweep(page):
    reply = page.ask("sweep_options")
    assert reply["most"] == MAX_RUNS
    assert {"images", "learning_rate", "vectors", "init_text"} <= {option["name"] for option in reply["options"]}
    assert all(option["label"] and option["help"] for option in reply["options"])


@pytest.mark.parametrize("identifier", ["", "..", "a/b", "none", None, "\0", 7])
def test_sweeps_that_do_not_exist(page, identifier):
    for action in ("comparison", "stop_sweep", "resume_sweep"):
        assert page.ask(action, sweep=identifier)["error"].startswith(("There is no", "This sweep no longer exists"))
