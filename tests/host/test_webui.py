"""The whole way in a real WebUI: install it, start it, then run these with WEBUI_URL and WEBUI_DIR set.

They take whatever checkpoint is selected, at 64 pixels and few steps, so that a CPU is enough.
"""

import json

import pytest
from driver.tab import ACTIVE_STATES

pytestmark = pytest.mark.browser

SMALL = {"steps": 12, "resolution": 64, "preview_every": 6, "preview_steps": 2, "preview_prompts": "a photo of [name]"}


def generate(tab, prompt: str) -> str:
    """A small picture from the host's own txt2img; gives what the host says made it."""
    tab.show("txt2img")
    tab.prompt().fill(prompt)
    for name, value in (("width", 64), ("height", 64), ("steps", 2)):
        tab.page.locator(f"#txt2img_{name} input[type=number]").first.fill(str(value))
        tab.page.locator(f"#txt2img_{name} input[type=number]").first.blur()
    info = tab.page.locator("#html_info_txt2img").first
    before = info.inner_text()
    tab.page.locator("#txt2img_generate").click()
    tab.wait_until(lambda: info.inner_text().strip() not in ("", before), 600, "the picture")
    return info.inner_text()


def test_train_and_use_an_embedding_without_a_restart(tab, webui, coins, word):
    tab.screenshot("host-idle", full=False)
    generate(tab, "a photo of a cat")
    tab.show("Textual Inversion")
    tab.add_pictures(*coins).fill(name=word, **SMALL)
    tab.screenshot("host-filled", full=False)
    tab.train()
    assert tab.state in ACTIVE_STATES
    states = set()
    tab.wait_until(lambda: states.add(tab.state) or tab.state in ("finished", "failed"), 900, "the end")
    tab.screenshot("host-finished", full=False)
    assert tab.state == "finished", tab.problems
    tab.wait_until(lambda: tab.previews().count() == 3, awaited="previews of steps 0, 6 and 12")
    assert (webui.embeddings / f"{word}.safetensors").exists()
    assert (webui.embeddings / f"{word}.preview.png").exists()
    tab.wait_until(lambda: word in tab.picker_choices(), awaited="the word in the picker")
    tab.choose_embedding(word)
    tab.prompt().fill("a photo of ")
    tab.page.locator("button#txt2img_tinv_insert, #txt2img_tinv_insert button").first.click()
    tab.wait_until(lambda: word in tab.prompt().input_value())
    tab.screenshot("host-picker", full=False)
    infotext = generate(tab, tab.prompt().input_value())
    assert (
        f"TI: {word}" in infotext or f'TI hashes: "{word}' in infotext
    )  # what Forge and AUTOMATIC1111 say of embeddings used


def test_generation_waits_for_a_training(tab, webui, coins, word):
    tab.add_pictures(*coins).fill(name=word, **{**SMALL, "steps": 5000, "preview_every": 0}).train()
    tab.wait_until(lambda: tab.state == "training" and tab.step >= 1, 900)
    tab.screenshot("host-training", full=False)
    tab.show("txt2img")
    tab.page.get_by_text("Generate will wait").first.wait_for(state="visible", timeout=20_000)
    tab.screenshot("host-waiting", full=False)
    tab.page.get_by_role("button", name="Stop training").first.click()
    tab.show("Textual Inversion")
    tab.wait_for_state("stopped")
    tab.screenshot("host-stopped", full=False)
    assert generate(tab, "a photo of a dog")


def test_draft_images_are_not_served(tab, webui, coins):
    tab.add_pictures(*coins)
    draft_image = next((webui.runs / ".drafts").rglob("*.png"))
    assert tab.page.request.get(f"{tab.url}file={draft_image}").status in (403, 404)


def test_host_api_still_generates(tab):
    answer = tab.page.request.post(
        f"{tab.url}sdapi/v1/txt2img", data=json.dumps({"prompt": "a cat", "steps": 1, "width": 64, "height": 64}),
        headers={"Content-Type": "application/json"}, timeout=300_000,
    )  # fmt: skip
    if answer.status == 404:
        pytest.skip("the host runs without --api")
    assert answer.ok
    assert len(answer.json()["images"]) == 1
