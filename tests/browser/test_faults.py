"""What goes wrong, and what the page says then."""

import shutil
import signal

import pytest
from driver.server import COIN, Server
from driver.tab import Tab
from PIL import Image

pytestmark = pytest.mark.browser


def test_what_is_no_picture_is_refused_by_name(tab, tmp_path, coins):
    text = tmp_path / "notes.png"
    text.write_text("not a picture at all")
    tab.add(text, coins[0], wait=False)
    tab.until(lambda: "notes.png" in tab.page.locator("#tinv_images").inner_text(), what="the refusal")
    tab.until(lambda: tab.thumbnails().count() == 1)
    tab.picture("refused")


def test_many_pictures_at_once(tab, tmp_path):
    paths = []
    for i in range(60):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (64, 64), (i * 4, 255 - i * 4, 100)).save(paths[-1])
    tab.add(*paths)
    assert tab.thumbnails().count() == 60


def test_names_and_captions_are_shown_as_text(tab, tmp_path):
    hostile = "<img src=x onerror=window.harmed=1>"
    path = tmp_path / "<b onmouseover=alert(1)>x.png"
    Image.new("RGB", (64, 64), "red").save(path)
    tab.add(path)
    caption = tab.page.locator("#tinv_images input[type=text], #tinv_images textarea").first
    caption.fill(hostile)
    caption.blur()
    tab.fill(name=hostile, init_text=hostile)
    tab.train()
    tab.until(lambda: "cannot contain" in tab.problems)
    tab.open()
    tab.page.wait_for_timeout(1000)
    assert tab.page.evaluate("window.harmed") is None
    assert tab.page.locator("#tab_textual_inversion b[onmouseover]").count() == 0


def test_uploads_do_not_stay_and_pictures_have_no_address(tab, server, coins):
    tab.add(*coins)
    left = [path for path in (server.data / "uploads").rglob("*") if path.suffix in (".png", ".jpg")]
    assert left == []
    kept = next((server.data / "textual_inversion" / ".drafts").rglob("*.png"))
    answer = tab.page.request.get(f"{tab.url}file={kept}")
    assert answer.status in (403, 404)


def test_a_killed_server_is_waited_for_and_its_training_resumed(open_tab, browser, tmp_path, coins):
    server = Server(tmp_path)
    tab = open_tab(server)
    tab.add(*coins).fill(name="orphan-coin", steps=1500, batch_size=2, preview_every=0).train()
    tab.until(lambda: tab.state == "training" and tab.step >= 5)
    server.stop(signal.SIGKILL)
    tab.until(lambda: "does not answer" in tab.page.locator("#tinv_status").inner_text(), 40, "word of the silence")
    tab.picture("no-answer")
    assert tab.page.locator(".toast-wrap .toast-body, .toast-body.error").count() == 0
    server.start()
    tab.open()
    tab.until(lambda: tab.state == "idle", 60, "the orphan to have saved and ended")
    tab.until(lambda: "orphan-coin" in tab.page.locator("#tinv_runs").inner_text())
    tab.picture("interrupted")
    tab.click("resume")
    tab.until(lambda: tab.state == "training" and tab.step >= 5, 90, "the training to go on")
    tab.click("stop")
    tab.until_state("stopped")
    server.stop()


def test_a_lost_checkpoint_fails_with_its_reason(open_tab, tmp_path, coins):
    practice = COIN.parents[1] / "model"
    (tmp_path / "models").mkdir()
    for name in ("practice.safetensors", "practice.yaml"):
        shutil.copy(practice / name, tmp_path / "models" / name)
    server = Server(tmp_path, "--model", str(tmp_path / "models"))
    tab = open_tab(server)
    tab.add(*coins).fill(name="lost-coin", steps=20, preview_every=0)
    (tmp_path / "models" / "practice.safetensors").unlink()
    tab.train()
    tab.until(lambda: "practice.safetensors" in tab.problems or tab.state == "failed", 60, "the reason")
    tab.picture("no-checkpoint")
    server.stop()


def test_a_login_guards_everything(open_tab, browser, tmp_path, coins):
    server = Server(tmp_path, "--auth", "ann:secret")
    context = browser.new_context()
    page = context.new_page()
    answer = page.request.post(f"{server.url}run/tinv", data={"data": ['{"do": "runs"}']})
    assert answer.status in (401, 403)
    page.request.post(f"{server.url}login", form={"username": "ann", "password": "secret"})
    tab = Tab(page, server.url).open()
    tab.add(*coins)
    tab.fill(name="guarded-coin", steps=20, preview_every=0).train()
    tab.until_state("finished")
    context.close()
    server.stop()


@pytest.mark.parametrize("width", [390, 768])
def test_a_phone_shows_it_all_without_scrolling_sideways(open_tab, server, width):
    tab = open_tab(server, viewport={"width": width, "height": 844})
    tab.picture(f"width-{width}")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width + 1


def test_every_field_and_button_has_a_name_for_screen_readers(tab):
    tab.open_advanced()
    nameless = tab.page.evaluate(
        """() => [...document.querySelectorAll('#tab_textual_inversion input, #tab_textual_inversion textarea,'
                + '#tab_textual_inversion button')].filter(e => e.checkVisibility()
            && !(e.labels && e.labels.length && e.labels[0].innerText.trim()) && !e.getAttribute('aria-label')
            && !e.getAttribute('aria-labelledby') && !e.innerText.trim() && !e.title && e.type !== 'file')
            .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


def test_the_dark_theme_is_readable(open_tab, server):
    tab = open_tab(server)
    tab.url += "?__theme=dark"
    tab.open()
    tab.page.wait_for_timeout(500)
    tab.picture("dark")
    light = tab.page.evaluate(
        """() => { const c = getComputedStyle(document.querySelector('#tinv_status_text')).color.match(/[0-9.]+/g).map(Number);
                   return (c[0] + c[1] + c[2]) / 3; }"""
    )
    assert light > 140
