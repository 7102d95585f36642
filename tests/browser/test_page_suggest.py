"""What the page offers beside its fields: start words, and several trainings in one go. Python's replies are stand-ins."""

import json

import pytest

pytestmark = pytest.mark.browser

WORDS = [
    {"text": "silver coin", "gain": 0.12, "share": 0.8},
    {"text": "button", "gain": 0.06, "share": 0.4},
    {"text": "<b>dog</b>", "gain": -0.01, "share": 0.0},
]


def status(state: str, **more) -> dict:
    return {"state": state, "done": 0, "total": 0, "words": [], "vectors": None, "message": "", **more}


class StandIn:
    """Answers the actions in `replies` in Python's place; notes the requests."""

    def __init__(self, tab) -> None:
        self.replies: dict[str, dict] = {}
        self.requests: list[dict] = []
        tab.page.route("**/run/tinv", self.answer)

    def answer(self, route) -> None:
        request = json.loads(route.request.post_data_json["data"][0])
        if request["do"] not in self.replies:
            return route.continue_()
        self.requests.append(request)
        return route.fulfill(json={"data": [json.dumps(self.replies[request["do"]])]})


def test_suggested_words_are_ranked_and_chosen_by_a_click(tab, coins):
    service = StandIn(tab)
    tab.add_pictures(*coins).fill(name="chosen-coin", init_text="object", vectors=2)
    service.replies = {
        "suggest": status("running", message="Waiting for the WebUI"),
        "suggestions": status("running", done=12, total=40, words=WORDS[1:2]),
    }
    button, note = tab.page.locator("#tinv_suggest_button"), tab.page.locator("#tinv_suggest_note")
    button.click()
    tab.wait_until(lambda: "Trying words: 12 of 40" in note.inner_text(), awaited="the progress")
    assert button.inner_text() == "Cancel"
    assert service.requests[0]["form"]["init_text"] == "object"
    tab.screenshot("suggest-running")
    service.replies["suggestions"] = status("done", done=40, total=40, words=WORDS, vectors=4)
    choices = tab.page.locator("#tinv_suggestions button")
    tab.wait_until(lambda: choices.count() == 3, awaited="the words")
    assert choices.all_inner_texts() == ["silver coin", "button", "<b>dog</b>"]
    widths = [bar.evaluate("bar => bar.style.width") for bar in tab.page.locator("#tinv_suggestions .tinv-gain").all()]
    assert widths == ["100%", "50%", "0%"]
    choices.first.click()
    tab.wait_until(lambda: tab.field("init_text").input_value() == "silver coin", awaited="the word in its field")
    tab.wait_until(lambda: choices.first.get_attribute("aria-pressed") == "true", awaited="the choice to be marked")
    tab.screenshot("suggest-done")
    note.get_by_role("button", name="Use them").click()
    tab.wait_until(lambda: tab.field("vectors").input_value() == "4", awaited="the vectors")
    tab.wait_until(lambda: "would suit" not in note.inner_text(), awaited="the offer to go")


def test_suggesting_is_cancelled_and_fails_with_a_reason(tab):
    service = StandIn(tab)
    service.replies = {"suggest": status("running"), "suggestions": status("running"), "cancel_suggest": {}}
    button, note = tab.page.locator("#tinv_suggest_button"), tab.page.locator("#tinv_suggest_note")
    button.click()
    tab.wait_until(lambda: button.inner_text() == "Cancel")
    service.replies["suggestions"] = status("idle")
    button.click()
    tab.wait_until(lambda: button.inner_text() == "Suggest")
    assert [request["do"] for request in service.requests].count("cancel_suggest") == 1
    service.replies["suggest"] = status("failed", message="not enough memory")
    button.click()
    tab.wait_until(lambda: "Not enough memory." in note.inner_text())


def test_suggesting_without_pictures_says_so(tab):
    if tab.thumbnails().count():
        tab.page.locator("#tinv_clear").click()
        tab.wait_until(lambda: not tab.thumbnails().count())
    tab.page.locator("#tinv_suggest_button").click()
    note = tab.page.locator("#tinv_suggest_note")
    tab.wait_until(lambda: "Add pictures first" in note.inner_text())


def test_several_trainings_are_counted_queued_and_compared(tab, coins):
    service = StandIn(tab)
    sweep = {
        "id": "swept-coin/2031-01-01T00-00-00", "name": "swept-coin", "time": 1900000000.0, "state": "running", "done": 1,
        "total": 4, "values": {"learning_rate": ["0.002", "0.005"], "init_text": ["coin", "ring"]},
        "runs": [{"run": "swept-coin-1/2031-01-01T00-00-00", "name": "swept-coin-1"}],
        "best": {"run": "swept-coin-1/2031-01-01T00-00-00", "reason": "its error is least"},
    }  # fmt: skip
    service.replies = {"sweep_options": {"options": [], "most": 6}, "sweeps": {"sweeps": []}}
    tab.add_pictures(*coins).fill(name="swept-coin")
    tab.page.locator("#tinv_sweep > summary").click()
    start, note = tab.page.locator("#tinv_sweep_start"), tab.page.locator("#tinv_sweep_note")
    assert start.is_disabled()
    field = lambda option: tab.page.locator(f"#tinv_sweep_fields [data-option={option}]")  # noqa: E731
    field("learning_rate").fill("0.002, 0.005,")
    field("vectors").fill("1,2,3,4")
    tab.wait_until(lambda: "8 trainings. At most 6" in note.inner_text())
    assert start.is_disabled()
    field("vectors").fill("")
    field("init_text").fill("coin, ring, coin")
    tab.wait_until(lambda: "4 trainings" in note.inner_text())
    assert start.inner_text() == "Train all 4"
    tab.screenshot("sweep")
    service.replies["sweep"] = {"problems": [{"option": "learning_rate", "message": "0.002 is too small"}]}
    start.click()
    tab.wait_until(lambda: "0.002 is too small" in tab.problems)
    service.replies["sweep"] = {"sweep": sweep["id"], "runs": ["swept-coin/2031-01-01T00-00-00"], "warnings": []}
    service.replies["sweeps"] = {"sweeps": [sweep]}
    start.click()
    item = tab.page.locator("#tinv_sweeps li")
    tab.wait_until(lambda: item.count() == 1)
    request = [request for request in service.requests if request["do"] == "sweep"][-1]
    assert request["values"] == {"learning_rate": ["0.002", "0.005"], "init_text": ["coin", "ring"]}
    assert "1 of 4 trained" in item.inner_text()
    assert "Best so far: swept-coin-1. Its error is least." in item.inner_text()
    service.replies["comparison"] = {
        "html": "<!doctype html><title>x</title><script>parent.executed = 1</script><p>Four</p>"
    }
    item.get_by_role("button", name="Compare").click()
    report = tab.page.locator("#tinv_report")
    tab.page.frame_locator("#tinv_report iframe").get_by_text("Four").wait_for()
    assert report.locator("iframe").get_attribute("sandbox") == ""
    assert tab.page.evaluate("window.executed") is None
    tab.screenshot("sweep-compared", full=False)
    tab.page.keyboard.press("Escape")
    service.replies["stop_sweep"] = {}
    item.get_by_role("button", name="Stop all").click()
    tab.wait_until(lambda: service.requests[-1]["do"] in ("stop_sweep", "sweeps"))
