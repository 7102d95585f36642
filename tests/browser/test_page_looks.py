"""What is shown where, and when."""

import pytest
from driver.server import COIN

pytestmark = pytest.mark.browser


def test_previews_have_their_prompt_above_and_one_button_a_column(tab, coins):
    tab.add_pictures(*coins).fill(
        name="table-coin", steps=20, preview_every=10, snapshot_every=10, preview_steps=2, validate_every=0,
        preview_prompts="a photo of [name]\na red [name] on grass, seen from far away", test_prompt="a [name]",
    ).train()  # fmt: skip
    tab.wait_for_state("finished")
    gallery = tab.page.locator("#tinv_previews_gallery")
    tab.wait_until(lambda: tab.previews().count() == 6, awaited="previews of steps 0, 10 and 20")
    headings = [text.splitlines()[0] for text in gallery.locator("thead th").all_inner_texts()]
    assert headings == ["Before training", "Step 10", "Step 20"]
    assert gallery.locator(".tinv-prompt").all_inner_texts() == [
        "a photo of table-coin", "a red table-coin on grass, seen from far away",
    ]  # fmt: skip
    assert gallery.get_by_role("button", name="Use this step").count() == 1, "step 20 is in use, 0 is not kept"
    pinned = gallery.locator("td.tinv-pinned").first
    left = pinned.bounding_box()["x"]
    gallery.locator(".tinv-scroll").evaluate("element => { element.scrollLeft = element.scrollWidth; }")
    assert pinned.bounding_box()["x"] == pytest.approx(left, abs=2)
    assert tab.page.locator("#tinv_own_pictures img").count() == 4
    gallery.get_by_role("button", name="Use this step").click()
    tab.wait_until(lambda: "Step 10 is now used for table-coin" in tab.page.locator("#tinv_previews_note").inner_text())
    assert gallery.locator("th[data-column='10'] .tinv-badge").inner_text() == "In use"


def test_expert_fields_are_shown_with_custom(tab):
    steps = tab.page.locator("#tinv_steps")
    assert not steps.is_visible()
    tab.fill(preset="Custom")
    tab.wait_until(steps.is_visible)
    tab.fill(preset="Balanced")
    tab.wait_until(lambda: not steps.is_visible())


def test_search_knows_other_words(tab):
    tab.open_advanced()
    for text, field in (("flip", "flip"), ("vram", "memory"), ("sample", "preview_every")):
        tab.page.locator("#tinv_search").fill(text)
        tab.wait_until(lambda field=field: tab.page.locator(f"#tinv_{field}").is_visible(), 10, text)
        assert not tab.page.locator("#tinv_noise_offset").is_visible()


def test_empty_form_shows_an_example(tab):
    images = tab.page.locator("#tinv_intro img")
    assert images.count() == 3
    assert images.evaluate_all("all => all.every((image) => image.naturalWidth > 100 && image.alt)")


def test_picker_says_that_nothing_is_found_and_keeps_strength_in_bounds(tab):
    box = tab._open_picker("txt2img")
    box.fill("no such word")
    options = tab.page.locator("#txt2img_tinv_picker ul.options")
    tab.wait_until(lambda: options.count() == 1)
    assert options.evaluate("list => getComputedStyle(list, '::after').content") == '"Nothing found"'


def test_advice_on_the_number_of_pictures(tab, tmp_path):
    note = tab.page.locator("#tinv_pictures_note")
    tab.add_pictures(COIN / "1.png")
    tab.wait_until(lambda: note.inner_text() == "1 picture. Add 3 more for a good result.")
