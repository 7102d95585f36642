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
    note.get_by_role("button", name="use as many").click()
    tab.wait_until(lambda: tab.field("vectors").input_value() == "4", awaited="the vectors")
    tab.wait_until(lambda: "Worth" not in note.inner_text(), awaited="the offer to go")


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
