"""The form follows the checkpoint chosen in a real WebUI, and each family is trained and used there.

The checkpoints are those of `reference.webui`, put into the WebUI's own folder for the time of the tests. AUTOMATIC1111 loads
them all, if it was not started with --ckpt, which it goes back to whenever it lists its checkpoints; Forge, which takes real
sizes alone, has its form looked at.
"""

import shutil

import pytest
import torch
from reference.webui import FAMILIES, write_families
from test_webui import SMALL, generate

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint.families import SD1, SD2, SDXL

pytestmark = pytest.mark.browser
TITLES = {"tiny-sd1": SD1.title, "tiny-sd2": SD2.title, "tiny-sdxl": SDXL.title}


@pytest.fixture(scope="module")
def checkpoints(webui):
    """A small checkpoint of each family, and an embedding for none of them."""
    folder = webui.folder / "models" / "Stable-diffusion"
    before = set(folder.iterdir())
    write_families(folder)
    misfit = webui.embeddings / "test-misfit.safetensors"
    misfit.write_bytes(safetensors_bytes({"emb_params": torch.ones(1, 640)}, {}))
    yield FAMILIES
    misfit.unlink()
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def options(tab) -> dict:
    return tab.page.request.get(f"{tab.url}sdapi/v1/options").json()


def selected(tab) -> str:
    return options(tab)["sd_model_checkpoint"] or ""


def choose(tab, name):
    """Choose a checkpoint in the WebUI's list, which may have to be read again to hold it."""
    box = tab.page.locator("#setting_sd_model_checkpoint input, .model_selection input").first
    option = tab.page.locator("#setting_sd_model_checkpoint ul li, ul.options li").filter(has_text=name).first
    if name in selected(tab):
        return
    box.click()
    box.fill(name)
    tab.page.wait_for_timeout(1000)
    if not option.count():
        box.press("Escape")
        tab.page.locator("#refresh_sd_model_checkpoint, #forge_refresh_checkpoint").first.click()
        tab.page.wait_for_timeout(3000)
        box.click()
        box.fill(name)
    option.click()
    tab.wait_until(lambda: name in selected(tab), 300, f"{name} to be selected")


def select(tab, name):
    """Choose a checkpoint as a user does, and wait until the form says so."""
    choose(tab, name)
    tab.show("Textual Inversion")
    note = tab.page.locator("#tinv_checkpoint")
    tab.wait_until(
        lambda: name in note.inner_text() and TITLES[name] in note.inner_text(), 180, f"{name} beside the word"
    )


@pytest.fixture
def tab_on_first(tab):
    """The tab; what was selected is so again afterwards. AUTOMATIC1111 would fetch a network to show SDXL's progress."""
    was = {name: options(tab)[name] for name in ("show_progress_type", "sd_model_checkpoint")}
    address = f"{tab.url}sdapi/v1/options"
    tab.page.request.post(address, data={"show_progress_type": "Approx cheap"})
    yield tab
    tab.page.request.post(address, data=was, timeout=300_000)


def test_form_follows_the_selected_checkpoint(tab_on_first, checkpoints):
    tab = tab_on_first
    tab.open_advanced()
    for name, rate in {"tiny-sd1": "0.003", "tiny-sdxl": "0.0015", "tiny-sd2": "0.003"}.items():
        select(tab, name)
        tab.fill(preset="Thorough")
        tab.wait_until(lambda rate=rate: tab.field("learning_rate").input_value() == rate, awaited=f"{name}'s rate")
        for field in ("learning_rate_2", "train_encoders"):
            assert tab.page.locator(f"#tinv_{field}").is_visible() == (name == "tiny-sdxl")
        skip = "1" if name == "tiny-sd1" else "2, and 1 is the same"
        auto_note = tab.page.locator("#tinv_clip_skip .tinv-auto")
        tab.wait_until(
            lambda auto_note=auto_note, skip=skip: f"Here: {skip}." in auto_note.inner_text(),
            awaited="clip skip's auto",
        )
        tab.field("init_embedding").focus()
        misfit = tab.page.locator("#tinv_starts li").filter(has_text="test-misfit")
        misfit.wait_for(state="visible")
        assert misfit.get_attribute("aria-disabled") == "true"
        assert "made for models of width 640" in misfit.inner_text()
        tab.screenshot(f"host-{name}", full=False)
        tab.field("init_embedding").blur()


@pytest.mark.parametrize("name", FAMILIES)
def test_train_and_use_an_embedding_of_each_family(tab_on_first, webui, checkpoints, coins, word, name):
    if (webui.folder / "backend").is_dir():
        pytest.skip("Forge loads checkpoints of real sizes alone")
    tab = tab_on_first
    select(tab, name)
    tab.add_pictures(*coins).fill(name=word, **SMALL)
    tab.train()
    tab.wait_until(lambda: tab.state in ("finished", "failed"), 600, "the end")
    tab.screenshot(f"host-{name}-finished", full=False)
    assert tab.state == "finished", tab.problems
    embeddings = tab.page.request.get(f"{tab.url}sdapi/v1/embeddings").json()
    assert embeddings["loaded"][word]["vectors"] == 2
    assert "test-misfit" in embeddings["skipped"]
    infotext = generate(tab, f"a photo of {word}")
    assert f"TI: {word}" in infotext or f'TI hashes: "{word}' in infotext
