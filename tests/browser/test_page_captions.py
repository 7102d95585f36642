"""Captions for all pictures at once."""

import json

import pytest

pytestmark = pytest.mark.browser


def shown(tab):
    return [
        box.input_value() for box in tab.page.locator("#tinv_pictures_list textarea, #tinv_pictures_list input").all()
    ]


def test_captions_are_edited_together_and_back(tab, coins):
    tab.add_pictures(*coins)
    page = tab.page
    page.locator("#tinv_all_captions > summary").click()
    page.locator("[data-part=prefix]").fill("a photo of a round coin")
    tab.screenshot("captions")
    page.locator("#tinv_captions_apply").click()
    tab.wait_until(lambda: page.locator("#tinv_captions_note").inner_text() == "4 captions changed.")
    tab.wait_until(lambda: shown(tab) == ["a photo of a round coin"] * 4)
    page.locator("[data-part=find]").fill("round")
    page.locator("[data-part=replace]").fill("square")
    page.locator("#tinv_captions_apply").click()
    tab.wait_until(lambda: shown(tab) == ["a photo of a square coin"] * 4)
    page.locator("#tinv_captions_undo").click()
    tab.wait_until(lambda: shown(tab) == ["a photo of a round coin"] * 4)
    assert not page.locator("#tinv_captioners").is_visible(), "this host has no models that describe pictures"


def test_the_hosts_models_are_offered(open_tab, server, coins):
    """The replies of a host that has one: the standalone host has none."""
    tab = open_tab(server)
    states = [{"state": "running", "done": 0, "total": 4, "message": "Waiting for the WebUI"},
              {"state": "running", "done": 2, "total": 4, "message": ""},
              {"state": "done", "done": 4, "total": 4, "message": ""}]  # fmt: skip

    def answer(route):
        request = json.loads(json.loads(route.request.post_data)["data"][0])
        if request["do"] in ("write_captions", "captioning"):
            return route.fulfill(json={"data": [json.dumps(states.pop(0) if len(states) > 1 else states[0])]})
        response = route.fetch()
        reply = json.loads(response.json()["data"][0])
        if request["do"] == "form":
            reply["captioners"] = {"blip": "In sentences (BLIP)"}
        return route.fulfill(response=response, json={**response.json(), "data": [json.dumps(reply)]})

    tab.page.route("**/run/tinv", answer)
    tab.page.reload()
    tab.show("Textual Inversion")
    tab.add_pictures(*coins)
    tab.page.locator("#tinv_all_captions > summary").click()
    tab.page.get_by_role("button", name="In sentences (BLIP)").click()
    note = tab.page.locator("#tinv_captions_note")
    tab.wait_until(lambda: note.inner_text() == "Describing: 2 of 4")
    assert tab.page.locator("#tinv_captioners button").inner_text() == "Cancel"
    tab.wait_until(lambda: note.inner_text() == "4 captions written.")
