"""The form follows the checkpoint that is selected, without a reload."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from driver.server import Server
from reference.checkpoints import SIZES, write_checkpoint

from lib_ti.embedding.write import safetensors_bytes

pytestmark = pytest.mark.browser
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
EMBEDDINGS = {
    "old-mug": {"emb_params": torch.ones(2, 64)},
    "bird": {"emb_params": torch.ones(1, 96)},
    "teapot": {"clip_l": torch.ones(3, 64), "clip_g": torch.ones(3, 96)},
}


@pytest.fixture(scope="module")
def families(tmp_path_factory, browser):
    """A server with a checkpoint of each family, and embeddings for each."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "embeddings").mkdir()
    (folder / "models").mkdir()
    for name, size in {"one": "small", "two": "sd2", "xl": "sdxl"}.items():
        write_checkpoint(folder / "models" / f"{name}.safetensors", SIZES[size])
    for name, tensors in EMBEDDINGS.items():
        (folder / "embeddings" / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors, {}))
    shutil.copy(GOLDEN / "a1111-text.png", folder / "embeddings" / "picture.png")
    started = Server(folder, "--model", str(folder / "models"))
    yield started
    started.stop()


def select(tab, name):
    """Choose a checkpoint at the top of the page, and wait until the form says so."""
    box = tab.page.locator("#setting_sd_model_checkpoint input").first
    box.fill(name)
    tab.page.locator("ul.options li").filter(has_text=name).first.click()
    tab.until(lambda: box.input_value() == name, what=f"{name} in the list")
    tab.show("Textual Inversion")
    tab.until(lambda: name in tab.page.locator("#tinv_checkpoint").inner_text(), what=f"{name} beside the word")


def kept(tab, what):
    """What the browser keeps of the form for the next visit."""
    return json.loads(tab.page.evaluate("(key) => localStorage.getItem(key)", f"tinv.{what}") or "{}")


def auto(tab, field):
    """What the form says "auto" means."""
    found = tab.page.locator(f"#tinv_{field} .tinv-auto")
    return found.inner_text().strip() if found.count() else ""


def offered(tab):
    """What "Start from an embedding" offers: text, and whether it can be chosen."""
    if not tab.field("init_embedding").is_visible():
        tab.open_advanced()
    tab.field("init_embedding").fill("")
    tab.field("init_embedding").blur()
    tab.field("init_embedding").focus()
    options = tab.page.locator("#tinv_starts li")
    tab.until(lambda: options.count() > 0, what="the list of embeddings")
    return {
        ": ".join(option.locator("span").all_inner_texts()): option.get_attribute("aria-disabled") == "false"
        for option in options.all()
    }


def test_settings_follow_the_family(open_tab, families):
    tab = open_tab(families)
    select(tab, "one.safetensors")
    assert "Stable Diffusion 1.x" in tab.page.locator("#tinv_checkpoint").inner_text()
    tab.fill(preset="Thorough")
    tab.until(lambda: tab.field("learning_rate").input_value() == "0.003")
    tab.open_advanced()
    assert not tab.field("learning_rate_2").is_visible()
    assert not tab.page.locator("#tinv_train_encoders").is_visible()
    tab.until(lambda: auto(tab, "clip_skip") == "Here: 1.")
    assert auto(tab, "learning_rate") == "Here: 0.005."
    assert tab.field("resolution").get_attribute("placeholder") == "auto: 64"
    tab.page.locator("#tinv_search").fill("encoder")
    note = tab.page.locator("#tinv_search_note")
    assert "Not for this checkpoint: Learning rate, second text encoder; Text encoders trained" in note.inner_text()
    tab.page.locator("#tinv_search").fill("")

    select(tab, "xl.safetensors")
    tab.until(lambda: tab.field("learning_rate").input_value() == "0.0015", what="half the rate")
    assert tab.field("learning_rate_2").is_visible()
    assert tab.page.locator("#tinv_train_encoders").is_visible()
    tab.until(lambda: auto(tab, "clip_skip") == "Here: 2, and 1 is the same.")
    tab.until(lambda: auto(tab, "learning_rate_2") == "Here: 0.0015.")
    assert auto(tab, "prediction") == "Here: epsilon."
    tab.picture("family-xl")

    select(tab, "two.safetensors")
    tab.until(lambda: tab.field("learning_rate").input_value() == "0.003")
    tab.until(lambda: auto(tab, "prediction") == "Here: epsilon.")
    assert not tab.field("learning_rate_2").is_visible()


def test_a_preset_is_that_of_the_family_after_a_reload(open_tab, families):
    tab = open_tab(families)
    select(tab, "one.safetensors")
    tab.fill(preset="Thorough")
    tab.until(lambda: tab.field("learning_rate").input_value() == "0.003")
    tab.until(lambda: kept(tab, "preset").get("key") == "thorough", what="the preset to be kept")
    tab.open()
    select(tab, "xl.safetensors")
    tab.until(lambda: tab.field("learning_rate").input_value() == "0.0015", what="the rate of SDXL")
    tab.fill(steps=77)
    tab.until(lambda: kept(tab, "form").get("steps") == "77", what="the steps to be kept")
    select(tab, "one.safetensors")
    tab.page.wait_for_timeout(1500)
    assert tab.field("learning_rate").input_value() == "0.0015"  # one's own settings stay


def test_embeddings_to_start_from_are_explained(open_tab, families):
    tab = open_tab(families)
    select(tab, "one.safetensors")
    assert offered(tab) == {
        "old-mug: 2 vectors": True,
        "bird: made for models of width 96": False,
        "teapot: made for models of width 64 + 96": False,
        "my-mug: made for models of width 6": False,
    }
    tab.page.locator("#tinv_starts").wait_for(state="visible")
    tab.picture("starts-sd1", full=False)
    select(tab, "xl.safetensors")
    tab.until(lambda: offered(tab).get("old-mug: made for models of width 64; starts CLIP-L only"))
    tab.page.locator("#tinv_starts").wait_for(state="visible")
    tab.picture("starts-xl", full=False)
    field, choices = tab.field("init_embedding").bounding_box(), tab.page.locator("#tinv_starts").bounding_box()
    assert choices["y"] >= field["y"] + field["height"]  # below what is typed, and not over it
    tab.page.locator("#tinv_starts li").filter(has_text="old-mug").click()
    tab.until(lambda: tab.field("init_embedding").input_value() == "old-mug")
    note = tab.page.locator("#tinv_init_embedding .tinv-init-note")
    tab.until(lambda: "'old-mug' starts CLIP-L; CLIP-G starts from 'object'." in note.inner_text())
    tab.fill(init_embedding="bird")
    error = tab.page.locator("#tinv_init_embedding .tinv-field-error")
    tab.until(lambda: error.count() and "it fits only checkpoints of its width" in error.inner_text())
    tab.picture("starts-refused")
    tab.field("init_embedding").focus()
    tab.field("init_embedding").fill("tea")
    tab.until(lambda: tab.page.locator("#tinv_starts li").count() == 1)
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")
    tab.until(lambda: tab.field("init_embedding").input_value() == "teapot")
    tab.until(lambda: not error.count())


def test_an_embedding_in_a_picture_takes_its_name(open_tab, families):
    tab = open_tab(families)
    note = tab.page.locator("#tinv_name_note")
    tab.fill(name="my-mug")  # what is written in picture.png
    tab.until(lambda: "Already exists" in note.inner_text())
    tab.fill(name="picture")
    tab.until(lambda: "Free to use" in note.inner_text() or "English word" in note.inner_text())
    assert any(choice.startswith("my-mug") for choice in tab.choices())


def test_sdxl_learns_a_word_in_the_tab(open_tab, families, coins):
    tab = open_tab(families)
    select(tab, "xl.safetensors")
    tab.add(*coins).fill(
        name="xl-coin", steps=6, resolution=64, preview_every=3, preview_steps=2, learning_rate_2="0.001",
        init_embedding="old-mug",
    ).train()  # fmt: skip
    tab.until_state("finished", "failed")
    tab.picture("family-xl-trained")
    assert tab.state == "finished", tab.problems
    assert (families.data / "embeddings" / "xl-coin.safetensors").exists()
    tab.until(lambda: "xl-coin" in tab.choices(), what="the word in the picker")
    select(tab, "two.safetensors")
    tab.until(lambda: any(c.startswith("xl-coin — made for") for c in tab.choices()), what="the word to be grey")
    tab.picture("family-picker", full=False)
