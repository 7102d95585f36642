"""What the page says of a training that has ended: its best step, its warnings, its charts, its test pictures, its report."""

import json
import shutil
import zipfile

import pytest
from driver.server import COIN
from PIL import Image

pytestmark = pytest.mark.browser

REASON = "stopped at step 30: more steps would not have helped"
WARNINGS = [
    "since step 20 it learns the pictures by heart",
    "the vectors are long; lower --learning-rate",
    "the model gave no numbers once",
]
TESTS = [("plain", "a photo of judged-coin"), ("elsewhere", "a photo of judged-coin in snow")]


def judged_run(server, name: str) -> str:
    """A copy of the last run of a word, with the events of one that validated, warned, stopped early and was tested."""
    source = sorted((server.data / "textual_inversion" / name).iterdir())[-1]
    folder = source.with_name("2031-01-01T00-00-00")
    shutil.copytree(source, folder)
    (folder / "tests").mkdir(exist_ok=True)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    replaced = ("validation", "best", "test", "report", "warning")
    events = [e for e in events if e["kind"] not in replaced and not (e["kind"] == "step" and e["step"] > 30)]
    finished, end = events.pop(), events[-1]["time"]
    for step, change in ((0, 0.0), (10, -0.01), (20, -0.02), (30, -0.014)):
        loss, interval = 0.1 + change, 0.002 if step else 0.0
        events.append({"kind": "validation", "time": end, "step": step, "loss": loss, "change": change,
                       "interval": interval, "best_step": min(step, 20)})  # fmt: skip
    events += [{"kind": "warning", "time": end, "message": message} for message in (*WARNINGS, *WARNINGS)]
    events.append({"kind": "best", "time": end, "step": 20, "reason": "the error was least here"})
    for i, (label, prompt) in enumerate(TESTS):
        shutil.copy(folder / "previews" / "0-0-0.png", folder / "tests" / f"{i}.png")
        events.append({"kind": "test", "time": end, "prompt": prompt, "negative_prompt": "", "seed": 1, "prompt_index": i,
                       "label": label, "file": f"tests/{i}.png"})  # fmt: skip
    events.append({**finished, "step": 30, "reason": REASON})
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return f"{name}/{folder.name}"


@pytest.fixture
def judged(tab, server):
    """The tab with such a run open, and Details unfolded."""
    name = "judged-coin"
    if not (server.data / "textual_inversion" / name / "2031-01-01T00-00-00").exists():
        tab.add_pictures(*sorted(COIN.glob("*.png"))[:4]).fill(
            name=name, steps=40, preview_every=20, snapshot_every=10, preview_steps=2, validate_every=0
        ).train()
        tab.wait_for_state("finished")
        judged_run(server, name)
        tab.open()
    tab.page.evaluate("id => tinv.run.follow(id)", f"{name}/2031-01-01T00-00-00")
    tab.wait_for_state("finished")
    tab.page.locator("#tinv_details").evaluate("details => { details.open = true; }")
    return tab


def text(tab, element_id: str) -> str:
    return tab.page.locator(f"#{element_id}").inner_text()


def test_end_has_its_reason_and_an_offer_to_go_on(judged):
    assert "ready after 30 steps" in text(judged, "tinv_status_text")
    assert "more steps would not have helped" in text(judged, "tinv_status")
    assert judged.page.locator("#tinv_progress").get_attribute("aria-valuenow") == "100"
    assert REASON[1:] in text(judged, "tinv_result")
    assert "step 20, which measured best" in text(judged, "tinv_result")
    judged.page.locator("#tinv_result").get_by_role("button", name="Train further anyway").wait_for()
    judged.screenshot("judged")


def test_best_step_is_marked_with_its_reason(judged):
    assert text(judged, "tinv_best").endswith("Step 20 looks best and is in use. The error was least here.")
    (badge,) = judged.page.locator("#tinv_previews_gallery .tinv-badge").all()
    assert badge.locator("xpath=ancestor::th").get_attribute("data-column") == "20"


def test_warnings_stand_under_the_status_once_each_and_can_be_hidden(judged):
    items = judged.page.locator("#tinv_warnings li")
    judged.wait_until(lambda: items.count() == 3)
    assert judged.page.locator("#tinv_warnings li > span").all_inner_texts() == [
        "The model gave no numbers once.",
        "The vectors are long; lower “Learning rate”.",
        "Since step 20 it learns the pictures by heart.",
    ]
    box, result = (judged.page.locator(f"#{i}").bounding_box() for i in ("tinv_warnings", "tinv_result"))
    assert box["y"] + box["height"] <= result["y"]
    items.first.get_by_role("button").click()
    judged.wait_until(lambda: items.count() == 2)
    judged.page.wait_for_timeout(1200)  # a poll later
    assert items.count() == 2
    judged.page.get_by_role("button", name="Show the hidden warning").click()
    judged.wait_until(lambda: items.count() == 3)


def test_validation_is_drawn_and_tabled(judged):
    chart = judged.page.locator("#tinv_validation svg.tinv-chart")
    assert "best at step 20 with −20 %" in chart.locator("title").text_content()
    assert chart.locator(".tinv-dot").count() == 4
    assert chart.locator(".tinv-band").count() == chart.locator(".tinv-best-mark").count() == 1
    rows = judged.page.locator("#tinv_validation table tr").all()
    assert [cell.text_content() for cell in rows[3].locator("td").all()] == ["20", "−20 %", "± 2 %", "0.08"]


def test_test_pictures_are_shown_with_their_prompts(judged):
    figures = judged.page.locator("#tinv_tests figure")
    assert [figure.locator("figcaption > *").all_text_contents() for figure in figures.all()] == [
        list(t) for t in TESTS
    ]
    judged.wait_until(
        lambda: all((i.get_attribute("src") or "").startswith("data:image") for i in figures.locator("img").all())
    )
    figures.last.get_by_role("button").click()
    viewer = judged.page.locator("#tinv_viewer")
    judged.wait_until(lambda: viewer.locator("img:visible").get_attribute("src").startswith("data:image/png"))
    assert "in snow" in viewer.inner_text()
    assert not viewer.get_by_role("button", name="Use this step").is_visible()
    judged.page.keyboard.press("Escape")


def test_report_is_shown_without_running_anything_in_it(judged, server):
    folder = server.data / "textual_inversion" / "judged-coin" / "2031-01-01T00-00-00"
    picture = "<img src=x onerror='parent.executed = 1'><script>parent.executed = 1</script>"
    (folder / "report.html").write_text(
        f"<!doctype html><html><head></head><body>{picture}<h1>All of it</h1></body></html>"
    )
    judged.page.locator("#tinv_result").get_by_role("button", name="Report").click()
    judged.page.frame_locator("#tinv_report iframe").get_by_text("All of it").wait_for()
    judged.page.wait_for_timeout(300)
    assert judged.page.evaluate("window.executed") is None
    with judged.page.expect_download() as download:
        judged.page.locator("#tinv_report").get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "judged-coin-2031-01-01T00-00-00.html"
    judged.page.keyboard.press("Escape")


def test_share_saves_a_zip_and_writes_into_the_file(judged, server):
    page = judged.page
    page.get_by_role("button", name="Share", exact=True).click()
    dialog = page.locator("#tinv_share")
    assert dialog.locator("#tinv_share_title").inner_text() == "Share judged-coin"
    dialog.locator("#tinv_share_description").fill("A coin from our school's garden.")
    dialog.locator("#tinv_share_author").fill("Class 4 b")
    dialog.locator("#tinv_share_license").fill("CC0-1.0")
    judged.screenshot("share")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download as zip").click()
    assert download.value.suggested_filename == "judged-coin.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "Licence: CC0-1.0" in archive.read("README.txt").decode()
        assert {"judged-coin.safetensors", "AUTOMATIC1111/judged-coin.pt"} <= set(archive.namelist())
    dialog.get_by_role("button", name="Write into the file here").click()
    dialog.get_by_text("Written into the file of judged-coin.").wait_for()
    header = (server.data / "embeddings" / "judged-coin.safetensors").read_bytes()
    assert b"Class 4 b" in header
    dialog.locator("#tinv_share_format").select_option("a1111")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename == "judged-coin.pt"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Share", exact=True).click()
    judged.wait_until(lambda: dialog.locator("#tinv_share_author").input_value() == "Class 4 b")
    page.keyboard.press("Escape")


def test_large_preview_is_moved_from_before_to_the_last_step(judged):
    panel, slider = judged.page.locator("#tinv_learning"), judged.page.locator("#tinv_learning_step")
    preview = judged.page.locator("#tinv_learning_preview")
    assert "Looks best: step 20" in panel.inner_text()
    assert preview.get_attribute("alt").startswith("Step 20"), "the best, once the training has ended"
    slider.focus()
    judged.page.keyboard.press("Home")
    judged.wait_until(lambda: preview.get_attribute("alt").startswith("Before training"))
    assert "Your picture" in panel.inner_text()
    panel.get_by_role("button", name="Show it").click()
    judged.wait_until(lambda: preview.get_attribute("alt").startswith("Step 20"))
    judged.page.keyboard.press("Tab")
    slider.focus()
    judged.page.keyboard.press("End")
    judged.wait_until(lambda: preview.get_attribute("alt").startswith("Step 40"))
    panel.screenshot()


def test_norm_and_similarity_are_drawn_and_tabled(judged):
    chart = judged.page.locator("#tinv_movement svg.tinv-chart")
    assert chart.locator(".tinv-norm").count() == chart.locator(".tinv-similarity").count() == 1
    rows = judged.page.locator("#tinv_movement table tr").all()
    assert [cell.text_content() for cell in rows[0].locator("th").all()] == ["Step", "Norm", "Similarity"]
    assert len(rows) > 3


def test_word_is_tried_in_place_and_its_pictures_saved_as_a_sheet(judged):
    figures = judged.page.locator("#tinv_tests figure")
    before = figures.count()
    panel, prompt = judged.page.locator("#tinv_try_panel"), judged.page.locator("#tinv_try_prompt")
    prompt.fill("a photo of a house")
    judged.page.locator("#tinv_try_make").click()
    judged.wait_until(lambda: "is without it" in panel.inner_text(), awaited="the word that is missing")
    prompt.fill("a drawing of [name]")
    judged.page.locator("#tinv_try_make").click()
    judged.wait_until(lambda: figures.count() == before + 1, 120, "the picture")
    assert "a drawing of judged-coin" in figures.last.inner_text()
    with judged.page.expect_download() as download:
        judged.page.locator("#tinv_try_sheet").click()
    assert download.value.suggested_filename == "judged-coin-sheet.png"
    with Image.open(download.value.path()) as sheet:
        assert sheet.width > 700
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 100
