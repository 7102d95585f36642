"""The form follows the family of the selected checkpoint without a reload."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from driver.server import Server
from reference.checkpoints import SIZES, write_checkpoint

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.settings.lr_schedule import auto_learning_rate

pytestmark = pytest.mark.browser
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
EMBEDDINGS = {
    "old-mug": {"emb_params": torch.ones(2, 64)},
    "bird": {"emb_params": torch.ones(1, 96)},
    "teapot": {"clip_l": torch.ones(3, 64), "clip_g": torch.ones(3, 96)},
}


@pytest.fixture(scope="module")
def families(tmp_path_factory, browser):
    """A server with a checkpoint of each family, and an embedding for each."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "embeddings").mkdir()
    (folder / "models").mkdir()
    for name, size in {"one": "small", "two": "sd2", "xl": "sdxl"}.items():
        write_checkpoint(folder / "models" / f"{name}.safetensors", SIZES[size])
    for name, tensors in EMBEDDINGS.items():
        (folder / "embeddings" / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors, {}))
    shutil.copy(GOLDEN / "a1111-text.png", folder / "embeddings" / "picture.png")
    family_server = Server(folder, "--model", str(folder / "models"))
    yield family_server
    family_server.stop()


def select_checkpoint(tab, name):
    """Choose a checkpoint at the top of the page, and wait until the form names it."""
    box = tab.page.locator("#setting_sd_model_checkpoint input").first
    box.fill(name)
    tab.page.locator("ul.options li").filter(has_text=name).first.click()
    tab.wait_until(lambda: box.input_value() == name, awaited=f"{name} in the list")
    tab.show("Textual Inversion")
    tab.wait_until(lambda: name in tab.page.locator("#tinv_checkpoint").inner_text(), awaited=f"{name} beside the word")


def remembered(tab, key):
    """What the browser remembers of the form: its values under "form", or its preset under "preset"."""
    return json.loads(tab.page.evaluate("(key) => localStorage.getItem(key)", f"tinv.{key}") or "{}")


def auto_note(tab, field):
    """What the form says "auto" means for a field."""
    note = tab.page.locator(f"#tinv_{field} .tinv-auto")
    return note.inner_text().strip() if note.count() else ""


def init_options(tab):
    """The options of "Start from an embedding": their texts, and whether they can be chosen."""
    if not tab.field("init_embedding").is_visible():
        tab.open_advanced()
    tab.field("init_embedding").fill("")
    tab.field("init_embedding").blur()
    tab.field("init_embedding").focus()
    options = tab.page.locator("#tinv_starts li")
    tab.wait_until(lambda: options.count() > 0, awaited="the list of embeddings")
    return {
        ": ".join(option.locator("span").all_inner_texts()): option.get_attribute("aria-disabled") == "false"
        for option in options.all()
    }


@pytest.mark.smoke
def test_settings_follow_the_family(open_tab, families):
    tab = open_tab(families)
    select_checkpoint(tab, "one.safetensors")
    assert "Stable Diffusion 1.x" in tab.page.locator("#tinv_checkpoint").inner_text()
    tab.fill(preset="Thorough")
    tab.wait_until(lambda: tab.field("steps").input_value() == "1500")
    tab.open_advanced()
    assert not tab.field("learning_rate_2").is_visible()
    assert not tab.page.locator("#tinv_train_encoders").is_visible()
    tab.wait_until(lambda: auto_note(tab, "clip_skip") == "Here: 1.")
    tab.wait_until(lambda: auto_note(tab, "learning_rate") == f"Here: {auto_learning_rate(64, 1500):g}.")
    assert tab.field("resolution").get_attribute("placeholder") == "auto: 64"
    tab.page.locator("#tinv_search").fill("encoder")
    note = tab.page.locator("#tinv_search_note")
    assert "Not for this checkpoint: Learning rate, second text encoder; Text encoders trained" in note.inner_text()
    tab.page.locator("#tinv_search").fill("")

    select_checkpoint(tab, "xl.safetensors")
    tab.wait_until(lambda: tab.field("learning_rate_2").is_visible(), awaited="SDXL's second rate")
    assert tab.page.locator("#tinv_train_encoders").is_visible()
    tab.wait_until(lambda: auto_note(tab, "clip_skip") == "Here: 2, and 1 is the same.")
    tab.wait_until(lambda: auto_note(tab, "learning_rate_2") == f"Here: {auto_learning_rate(96, 1500):g}.")
    assert auto_note(tab, "prediction") == "Here: epsilon."
    tab.screenshot("family-xl")

    select_checkpoint(tab, "two.safetensors")
    tab.wait_until(lambda: auto_note(tab, "learning_rate") == f"Here: {auto_learning_rate(96, 1500):g}.")
    tab.wait_until(lambda: auto_note(tab, "prediction") == "Here: epsilon.")
    assert not tab.field("learning_rate_2").is_visible()


def test_presets_and_changes_are_remembered_across_checkpoints(open_tab, families):
    tab = open_tab(families)
    select_checkpoint(tab, "one.safetensors")
    tab.fill(preset="Thorough")
    tab.wait_until(lambda: tab.field("steps").input_value() == "1500")
    tab.wait_until(lambda: remembered(tab, "preset").get("key") == "thorough", awaited="the preset to be remembered")
    tab.open()
    select_checkpoint(tab, "xl.safetensors")
    tab.wait_until(lambda: tab.field("steps").input_value() == "1500", awaited="the preset's steps")
    tab.fill(steps=77)
    tab.wait_until(lambda: remembered(tab, "form").get("steps") == "77", awaited="the steps to be remembered")
    select_checkpoint(tab, "one.safetensors")
    tab.page.wait_for_timeout(1500)
    assert tab.field("steps").input_value() == "77"


def test_init_embeddings_are_offered_with_reasons(open_tab, families):
    tab = open_tab(families)
    select_checkpoint(tab, "one.safetensors")
    assert init_options(tab) == {
        "old-mug: 2 vectors": True,
        "bird: made for models of width 96": False,
        "teapot: made for models of width 64 + 96": False,
        "my-mug: made for models of width 6": False,
    }
    tab.page.locator("#tinv_starts").wait_for(state="visible")
    tab.screenshot("starts-sd1", full=False)
    select_checkpoint(tab, "xl.safetensors")
    tab.wait_until(lambda: init_options(tab).get("old-mug: made for models of width 64; starts CLIP-L only"))
    tab.page.locator("#tinv_starts").wait_for(state="visible")
    tab.screenshot("starts-xl", full=False)
    field, options = tab.field("init_embedding").bounding_box(), tab.page.locator("#tinv_starts").bounding_box()
    assert options["y"] >= field["y"] + field["height"]  # it does not cover what is typed
    tab.page.locator("#tinv_starts li").filter(has_text="old-mug").click()
    tab.wait_until(lambda: tab.field("init_embedding").input_value() == "old-mug")
    note = tab.page.locator("#tinv_init_embedding .tinv-init-note")
    tab.wait_until(lambda: "'old-mug' starts CLIP-L; CLIP-G starts from 'object'." in note.inner_text())
    tab.fill(init_embedding="bird")
    error = tab.page.locator("#tinv_init_embedding .tinv-field-error")
    tab.wait_until(lambda: error.count() and "it fits only checkpoints of its width" in error.inner_text())
    tab.screenshot("starts-refused")
    tab.field("init_embedding").focus()
    tab.field("init_embedding").fill("tea")
    tab.wait_until(lambda: tab.page.locator("#tinv_starts li").count() == 1)
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")
    tab.wait_until(lambda: tab.field("init_embedding").input_value() == "teapot")
    tab.wait_until(lambda: not error.count())


def test_name_of_embedding_in_png_is_taken(open_tab, families):
    tab = open_tab(families)
    note = tab.page.locator("#tinv_name_note")
    tab.fill(name="my-mug")  # the name inside picture.png
    tab.wait_until(lambda: "This word exists" in note.inner_text())
    tab.fill(name="picture")
    tab.wait_until(lambda: "Free to use" in note.inner_text() or "English word" in note.inner_text())
    assert any(choice.startswith("my-mug") for choice in tab.picker_choices())


def test_train_sdxl_in_the_tab(open_tab, families, coins):
    tab = open_tab(families)
    select_checkpoint(tab, "xl.safetensors")
    tab.add_pictures(*coins).fill(
        name="xl-coin", steps=6, resolution=64, preview_every=3, preview_steps=2, learning_rate_2="0.001",
        init_embedding="old-mug",
    ).train()  # fmt: skip
    tab.wait_for_state("finished", "failed")
    tab.screenshot("family-xl-trained")
    assert tab.state == "finished", tab.problems
    assert (families.data / "embeddings" / "xl-coin.safetensors").exists()
    tab.wait_until(lambda: "xl-coin" in tab.picker_choices(), awaited="the word in the picker")
    select_checkpoint(tab, "two.safetensors")
    tab.wait_until(
        lambda: any(c.startswith("xl-coin — made for") for c in tab.picker_choices()), awaited="the misfit to be greyed"
    )
    tab.screenshot("family-picker", full=False)
