"""The page by keyboard, for screen readers, and its contrast: in both themes, in each state."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).parent
AXE = (FOLDER / "axe" / "axe.min.js").read_text(encoding="utf-8")
LOW_CONTRAST = (FOLDER / "contrast.js").read_text(encoding="utf-8")
ROOT = "#tab_textual_inversion"
SERIOUS_FINDINGS = f"""async () => (await axe.run({{include: ['{ROOT}']}}, {{resultTypes: ['violations']}})).violations
    .filter(({{impact}}) => ['serious', 'critical'].includes(impact))
    .map(({{id, nodes}}) => [id, nodes.map(({{html}}) => html.slice(0, 200))])"""
SMALL_TARGETS = """root => [...document.querySelectorAll(root + ' :is(button, a, summary, textarea, .tinv-drop, '
        + 'input:not([type=radio], [type=checkbox], [type=file]), label:has([type=radio], [type=checkbox]))')]
    .filter((element) => element.checkVisibility() && !element.closest('.tinv-visually-hidden'))
    .map((element) => [element.outerHTML.slice(0, 100), element.getBoundingClientRect()])
    .filter(([, {width, height}]) => Math.round(width) < 32 || Math.round(height) < 32)
    .map(([html, {width, height}]) => `${html} ${width}×${height}`)"""
FOCUSED = "() => document.activeElement.closest('[id^=tinv_]')?.id"


def assert_accessible(tab, state: str, root: str = ROOT) -> None:
    tab.page.evaluate(AXE)
    for is_dark in (False, True):
        tab.page.evaluate("dark => document.body.classList.toggle('dark', dark)", is_dark)
        tab.page.wait_for_timeout(400)  # until colours have changed
        tab.screenshot(f"accessible-{state}-{'dark' if is_dark else 'light'}")
        assert tab.page.evaluate(SERIOUS_FINDINGS) == [], state
        assert tab.page.evaluate(LOW_CONTRAST, root) == [], state
    tab.page.evaluate("document.body.classList.remove('dark')")
    assert tab.page.evaluate(SMALL_TARGETS, root) == [], state


def primary_buttons(tab) -> list[str]:
    """The buttons in the primary colour that can be clicked now."""
    return tab.page.evaluate(
        """root => [...document.querySelectorAll(root + ' button')].filter((button) => button.checkVisibility()
            && getComputedStyle(button).backgroundColor === 'rgb(194, 65, 12)').map((button) => button.id)""",
        ROOT,
    )


def test_contrast_is_measured(tab):
    tab.page.evaluate(
        """root => document.querySelector(root).insertAdjacentHTML('afterbegin',
            '<b id=low style="color: #ea580c; background: linear-gradient(#ffedd5, #fdba74)">Train</b>'
            + '<b id=high style="color: #fff; background: #c2410c">Train</b>')""",
        ROOT,
    )
    ((ratio, text, html),) = tab.page.evaluate(LOW_CONTRAST, ROOT)
    assert (round(ratio, 1), text) == (2.1, "Train")
    assert 'id="low"' in html


def test_every_state_is_accessible_in_both_themes(tab, coins):
    assert_accessible(tab, "fresh")
    assert primary_buttons(tab) == ["tinv_train"]
    tab.add_pictures(*coins).fill(
        name="mug", steps=20, batch_size=1, preview_every=10, preview_steps=2, snapshot_every=10, validate_every=10
    )
    for details in ("tinv_sweep", "tinv_seen"):
        tab.page.locator(f"#{details} summary").click()
    tab.wait_until(lambda: "already an English word" in tab.page.locator("#tinv_name_note").inner_text())
    assert_accessible(tab, "filled")
    tab.fill(name="a/b").train()
    tab.wait_until(lambda: "cannot contain" in tab.problems)
    assert_accessible(tab, "problems")
    tab.fill(name="readable-coin").train()
    tab.wait_for_state("training")
    assert "tinv_train" not in primary_buttons(tab)
    tab.wait_for_state("finished")
    tab.page.locator("#tinv_details summary").click()
    tab.wait_until(lambda: tab.previews().count() >= 3, awaited="previews of steps 0, 10 and 20")
    tab.page.wait_for_timeout(1500)  # until the result, its tests and the advice are there
    assert_accessible(tab, "finished")
    assert len(primary_buttons(tab)) == 1
    tab.page.locator("#tinv_previews_gallery .tinv-preview").first.click()
    assert tab.page.evaluate(LOW_CONTRAST, "#tinv_viewer") == []
    assert tab.page.evaluate(SMALL_TARGETS, "#tinv_viewer") == []


def test_train_is_a_few_tab_presses_away(tab, coins):
    tab.add_pictures(*coins)
    tab.page.wait_for_timeout(500)
    tab.page.locator("#tinv_example").focus()
    visited = []
    while "tinv_train" not in visited:
        tab.page.keyboard.press("Tab")
        visited.append(tab.page.evaluate(FOCUSED))
        assert len(visited) <= 16, visited
    for group in ("tinv_kind", "tinv_preset", "tinv_pictures_list"):
        assert visited.count(group) == 1, visited


def test_arrow_keys_move_within_a_group(tab, coins):
    tab.add_pictures(*coins)
    page = tab.page
    page.wait_for_timeout(500)
    kind = page.locator("#tinv_kind input")
    kind.first.focus()
    page.keyboard.press("ArrowRight")
    assert kind.nth(1).is_checked()
    page.keyboard.press("ArrowLeft")
    assert kind.first.is_checked()
    cards = page.locator("#tinv_pictures_list > li")
    cards.first.locator(".tinv-thumb").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("F2")
    page.keyboard.type("on a table")
    page.keyboard.press("Enter")
    page.keyboard.type("in snow")
    page.keyboard.press("Escape")
    captions = [card.locator(".tinv-caption").input_value() for card in cards.all()]
    assert captions == ["", "on a table", "in snow", ""]
    page.keyboard.press("End")
    page.keyboard.press("Delete")
    tab.wait_until(lambda: cards.count() == 3)
    assert "tinv-thumb" in page.evaluate("document.activeElement.className")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    viewer = page.locator("#tinv_viewer")
    tab.wait_until(lambda: viewer.locator("img:visible").evaluate("image => image.naturalWidth") > 0)
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_ctrl_enter_trains(tab):
    tab.fill(name="a/b")
    tab.field("name").press("Control+Enter")
    tab.wait_until(lambda: "cannot contain" in tab.problems)
