"""What the page does when something goes wrong, and for screen readers, phones and the dark theme."""

import re
import shutil
import signal

import pytest
from driver.server import COIN, Server
from driver.tab import Tab
from PIL import Image

pytestmark = pytest.mark.browser


def test_file_that_is_no_image_is_refused_by_name(tab, tmp_path, coins):
    notes = tmp_path / "notes.png"
    notes.write_text("not a picture at all")
    tab.add_pictures(notes, coins[0], wait=False)
    tab.wait_until(lambda: "notes.png" in tab.page.locator("#tinv_images").inner_text(), awaited="the refusal")
    tab.wait_until(lambda: tab.thumbnails().count() == 1)
    tab.screenshot("refused")


def test_sixty_pictures_are_added_at_once(tab, tmp_path):
    paths = []
    for i in range(60):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (64, 64), (i * 4, 255 - i * 4, 100)).save(paths[-1])
    tab.add_pictures(*paths)
    assert tab.thumbnails().count() == 60


def test_html_in_names_and_captions_is_escaped(tab, tmp_path):
    html = "<img src=x onerror=window.executed=1>"
    path = tmp_path / "<b onmouseover=alert(1)>x.png"
    Image.new("RGB", (64, 64), "red").save(path)
    tab.add_pictures(path)
    caption = tab.page.locator("#tinv_images input[type=text], #tinv_images textarea").first
    caption.fill(html)
    caption.blur()
    tab.fill(name=html, init_text=html)
    tab.train()
    tab.wait_until(lambda: "cannot contain" in tab.problems)
    tab.open()
    tab.page.wait_for_timeout(1000)
    assert tab.page.evaluate("window.executed") is None
    assert tab.page.locator("#tab_textual_inversion b[onmouseover]").count() == 0


@pytest.mark.smoke
def test_uploads_are_deleted_and_draft_images_are_not_served(tab, server, coins):
    tab.add_pictures(*coins)
    left_uploads = [path for path in (server.data / "uploads").rglob("*") if path.suffix in (".png", ".jpg")]
    assert left_uploads == []
    draft_image = next((server.data / "textual_inversion" / ".drafts").rglob("*.png"))
    response = tab.page.request.get(f"{tab.url}file={draft_image}")
    assert response.status in (403, 404)


def test_page_waits_for_killed_server_and_resumes_its_training(open_tab, browser, tmp_path, coins):
    server = Server(tmp_path)
    tab = open_tab(server)
    tab.add_pictures(*coins).fill(name="orphan-coin", steps=1500, batch_size=2, preview_every=0).train()
    tab.wait_until(lambda: tab.state == "training" and tab.step >= 5)
    server.stop(signal.SIGKILL)
    tab.wait_until(
        lambda: "Lost contact" in tab.page.locator("#tinv_status").inner_text(), 40, "the note that nobody answers"
    )
    tab.screenshot("no-answer")
    assert tab.page.locator(".toast-wrap .toast-body, .toast-body.error").count() == 0
    server.start()
    tab.open()
    tab.wait_until(lambda: tab.state == "stopped", 60, "the orphaned training to have saved and ended")
    assert re.search(r"(Interrupted|Stopped) at step \d+ of 1500", tab.page.locator("#tinv_status").inner_text())
    tab.wait_until(lambda: "orphan-coin" in tab.page.locator("#tinv_runs").inner_text())
    tab.screenshot("interrupted")
    tab.click("resume")
    tab.wait_until(lambda: tab.state == "training" and tab.step >= 5, 90, "the resumed training")
    tab.click("stop")
    tab.wait_for_state("stopped")
    server.stop()


def test_missing_checkpoint_is_reported(open_tab, tmp_path, coins):
    practice_model = COIN.parents[1] / "model"
    (tmp_path / "models").mkdir()
    for name in ("practice.safetensors", "practice.yaml"):
        shutil.copy(practice_model / name, tmp_path / "models" / name)
    server = Server(tmp_path, "--model", str(tmp_path / "models"))
    tab = open_tab(server)
    tab.add_pictures(*coins).fill(name="lost-coin", steps=20, preview_every=0)
    (tmp_path / "models" / "practice.safetensors").unlink()
    tab.train()
    tab.wait_until(lambda: "practice.safetensors" in tab.problems or tab.state == "failed", 60, "the reason")
    tab.screenshot("no-checkpoint")
    server.stop()


def test_actions_require_login(open_tab, browser, tmp_path, coins):
    server = Server(tmp_path, "--auth", "ann:secret")
    context = browser.new_context()
    page = context.new_page()
    response = page.request.post(f"{server.url}run/tinv", data={"data": ['{"do": "runs"}']})
    assert response.status in (401, 403)
    page.request.post(f"{server.url}login", form={"username": "ann", "password": "secret"})
    tab = Tab(page, server.url).open()
    tab.add_pictures(*coins)
    tab.fill(name="guarded-coin", steps=20, preview_every=0).train()
    tab.wait_for_state("finished")
    context.close()
    server.stop()


@pytest.mark.parametrize("width", [390, 768])
def test_narrow_page_does_not_scroll_horizontally(open_tab, server, width):
    tab = open_tab(server, viewport={"width": width, "height": 844})
    tab.screenshot(f"width-{width}")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width + 1


def test_fields_and_buttons_have_accessible_names(tab):
    tab.open_advanced()
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll('#tab_textual_inversion input, #tab_textual_inversion textarea,'
                + '#tab_textual_inversion button')].filter(e => e.checkVisibility()
            && !(e.labels && e.labels.length && e.labels[0].innerText.trim()) && !e.getAttribute('aria-label')
            && !e.getAttribute('aria-labelledby') && !e.innerText.trim() && !e.title && e.type !== 'file')
            .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


def test_text_is_light_in_dark_theme(open_tab, server):
    tab = open_tab(server)
    tab.url += "?__theme=dark"
    tab.open()
    tab.page.wait_for_timeout(500)
    tab.screenshot("dark")
    brightness = tab.page.evaluate(
        """() => { const c = getComputedStyle(document.querySelector('#tinv_status_text')).color.match(/[0-9.]+/g).map(Number);
                   return (c[0] + c[1] + c[2]) / 3; }"""
    )
    assert brightness > 140
