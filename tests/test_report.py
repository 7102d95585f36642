"""The report of a run: complete in itself, safe with hostile names, and its advice derived from the figures by rules."""

import dataclasses
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from reference.trainings import run, settings_for

from lib_ti.cli import main
from lib_ti.runs import execute
from lib_ti.runs.events import Event, EventLog, RunHistory
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report import charts, parts, samples
from lib_ti.runs.report.advice import advice
from lib_ti.runs.report.charts import Line, line_chart
from lib_ti.runs.report.facts import RunFacts, TrainingPicture, Validation, gather_facts
from lib_ti.runs.report.markup import Html, element, page
from lib_ti.runs.report.pictures import Looks, data_uri, looks_of
from lib_ti.runs.report.run_report import report_html
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import preflight

OLD_RUNS = Path(__file__).parent / "golden" / "old_runs"
HOSTILE = "<script>alert(1)</script>\"'&"


def settings(**more):
    required = {"images": "pictures", "name": "my-mug", "model": "model.safetensors", "out": "out"}
    return dataclasses.replace(parse(required)[0], **{"steps": 400, "learning_rate": "0.005", "resolution": 64, **more})


def validations(*losses: float, every: int = 50, interval: float = 0.001) -> list[Validation]:
    return [Validation(i * every, loss, loss - losses[0], interval) for i, loss in enumerate(losses)]


def picture(number: int = 1, fingerprint: int = 0, border: float = 0.0, captioned: bool = False, side: int = 64):
    return TrainingPicture(number, Looks((side, side), fingerprint, 0.0, (border, border, border)), captioned)


class Elements(HTMLParser):
    """All start tags of a page, and whether each element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, pictures, tmp_path_factory):
    options = {"steps": "4", "preview_every": "2", "preview_steps": "2", "preview_prompt": [f"[name] {HOSTILE}"]}
    return run(settings_for(tiny_checkpoint, pictures, tmp_path_factory.mktemp("report"), **options))


# --- the page -----------------------------------------------------------------------------------------------------


def test_finished_run_has_a_report(finished):
    assert finished.report.is_file()
    text = finished.report.read_text(encoding="utf-8")
    for heading in (
        "Test pictures",
        "What to try next",
        "Curves",
        "Previews",
        "Learned from",
        "Nearest words",
        "Settings",
    ):
        assert heading in text
    assert finished.history().last.kind == "finished"  # the report is no state


def test_report_needs_no_other_file_and_runs_no_script(finished):
    elements = Elements(finished.report.read_text(encoding="utf-8"))
    assert not elements.open
    assert {tag for tag, _ in elements.tags} & {"script", "link", "iframe", "object", "form"} == set()
    for _, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    assert "default-src 'none'" in next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert "url(" not in parts.style()
    assert len([tag for tag, _ in elements.tags if tag == "img"]) >= 3 + 3 + 4  # tests, previews, training pictures


def test_text_of_the_user_is_escaped(finished):
    text = finished.report.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_page_can_show_a_report_without_torch():
    """The page's process asks for it while a run goes on."""
    program = "import sys, lib_ti.runs.report.run_report; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=OLD_RUNS.parents[2], capture_output=True, text=True)
    assert result.stdout.strip() == "False"


def test_hostile_warning_and_failure_are_escaped(tmp_path):
    shutil.copytree(OLD_RUNS / "sd1", tmp_path / "run")
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.append("warning", message=HOSTILE)
    log.append("failed", message=f"\ud800 {HOSTILE}")
    text = report_html(RunFolder.open(tmp_path / "run"))
    assert "<script" not in text
    assert text.encode("utf-8", "replace")


def test_markup_escapes_all_but_markup():
    assert element("p", "<b>", Html("<b>x</b>"), title='"') == '<p title="&quot;">&lt;b&gt;<b>x</b></p>'
    assert element("img", src="x") == '<img src="x"/>'
    assert "<title>a&lt;b</title>" in page("a<b", "", "text")


@pytest.mark.parametrize("name", sorted(p.name for p in OLD_RUNS.iterdir() if p.is_dir()))
def test_old_runs_can_have_a_report(name, tmp_path, capsys):
    shutil.copytree(OLD_RUNS / name, tmp_path / name)
    assert main(["report", str(tmp_path / name)]) == 0
    report = tmp_path / name / "report.html"
    assert capsys.readouterr().out.strip() == str(report)
    assert not Elements(report.read_text(encoding="utf-8")).open


def test_report_of_something_else_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_stopped_and_failed_runs_have_a_report(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder, seen = execute.create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path))), []
    execute.execute_run(folder, seen.append, lambda: any(event.kind == "step" for event in seen))
    assert "Stopped" in folder.report.read_text(encoding="utf-8")
    assert "can be resumed" in folder.report.read_text(encoding="utf-8")
    monkeypatch.setattr(execute, "_train", lambda *_: 1 / 0)
    with pytest.raises(execute.TrainingFailed):
        execute.execute_run(folder)
    assert "ZeroDivisionError" in folder.report.read_text(encoding="utf-8")


def test_failing_report_does_not_fail_the_run(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    def fail(folder):
        raise KeyError("some figure")

    monkeypatch.setattr(execute, "write_report", fail)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path))
    history = folder.history()
    assert history.last.kind == "finished"
    assert "there is no report: KeyError" in history.warnings[-1].data["message"]
    assert "some figure" in folder.log.read_text(encoding="utf-8")


def test_folders_are_not_in_the_report(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    folder.store_settings(dataclasses.replace(folder.settings, init_embedding=tmp_path / "secret" / "start.pt"))
    text = report_html(folder)
    assert "start.pt" in text
    assert "secret" not in text
    assert str(finished.settings.out) not in text


def test_unreadable_pictures_and_a_missing_checkpoint_leave_gaps(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    folder.test(0).write_bytes(b"no picture")
    folder.preview(2, 0, 0).unlink()
    folder.store_settings(dataclasses.replace(folder.settings, model=tmp_path / "gone.safetensors"))
    text = report_html(folder, with_nearest_words=True)
    assert "Nearest words" not in text
    assert '<div class="picture">' in text


# --- charts -------------------------------------------------------------------------------------------------------


def test_chart_draws_finite_values_only():
    line = Line("loss", [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)], interval=[0.1, 0.1, 0.1, 0.1])
    svg = line_chart("Loss", [line])
    assert "nan" not in svg
    assert "inf" not in svg
    assert svg.count("<polyline") == svg.count("<polygon") == 1


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, float("nan")), (2, 1.0)]])
def test_chart_without_two_points_is_empty(points):
    assert line_chart("Loss", [Line("loss", points)]) == ""


def test_constant_and_long_lines_can_be_drawn():
    svg = line_chart("Norm", [Line("norm", [(i, 0.0) for i in range(5000)])], (4000, "best"))
    assert len(re.findall(r"points=\"([^\"]*)\"", svg)[0].split()) == charts.MAX_POINTS
    assert ">best<" in svg


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.13, 0.1301), (-5, 12345), (1e-9, 2e-9)])
def test_ticks_are_few_and_within_the_range(low, high):
    ticks = charts._ticks(low, high, 4)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)


def test_selection_of_steps_holds_the_first_the_last_and_the_best():
    chosen = samples.selection(list(range(0, 1001, 10)), 337, 8)
    assert len(chosen) == 8
    assert {0, 340, 1000} <= set(chosen)
    assert chosen == sorted(chosen)


# --- facts --------------------------------------------------------------------------------------------------------


def test_best_step_is_what_the_run_says(tmp_path):
    shutil.copytree(OLD_RUNS / "finished", tmp_path / "run")
    folder, log = RunFolder.open(tmp_path / "run"), EventLog(tmp_path / "run" / "events.jsonl")
    for step, loss in enumerate((0.3, 0.2, 0.25)):
        log.append("validation", step=step, loss=loss, change=loss - 0.3, interval=0.01, best_step=1)
    assert parts.best_step(gather_facts(folder, folder.history())) == 1
    log.append("best", step=2, reason="it is the last")
    facts = gather_facts(folder, folder.history())
    assert (parts.best_step(facts), facts.best_validation.loss) == (2, 0.25)
    assert facts.state == "finished"


def test_what_is_delivered_is_the_best_step_or_the_last_as_the_settings_say(tmp_path):
    shutil.copytree(OLD_RUNS / "finished", tmp_path / "run")
    folder, log = RunFolder.open(tmp_path / "run"), EventLog(tmp_path / "run" / "events.jsonl")
    for step in (0, 4, 6):
        log.append("validation", step=step, loss=0.1 * (5 - step) ** 2, change=0.0, interval=0.01, best_step=4)
    log.append("best", step=4, reason="")
    log.append("finished", step=6, file="x", reason="")
    for keep, step in (("best", 4), ("last", 6)):
        folder.store_settings(dataclasses.replace(folder.settings, keep=keep))
        facts = gather_facts(folder, folder.history())
        assert (facts.delivered, facts.delivered_validation.step, facts.best_validation.step) == (step, step, 4)


def test_report_says_why_a_run_ended_and_why_its_step_is_the_best(tmp_path):
    shutil.copytree(OLD_RUNS / "finished", tmp_path / "run")
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.append("best", step=4, reason="the loss is lowest there")
    log.append("finished", step=6, file="x", reason="stopped at step 6: it no longer improves")
    text = report_html(RunFolder.open(tmp_path / "run"))
    assert "Stopped at step 6: it no longer improves." in text
    assert "The loss is lowest there." in text


def test_validation_of_old_logs_has_no_interval(tmp_path):
    shutil.copytree(OLD_RUNS / "finished", tmp_path / "run")
    EventLog(tmp_path / "run" / "events.jsonl").append("validation", step=2, loss=0.5)
    folder = RunFolder.open(tmp_path / "run")
    assert gather_facts(folder, folder.history()).validations == [Validation(2, 0.5)]


def test_change_is_shown_in_per_cent_of_the_start():
    assert parts.change_text(Validation(10, 0.15, -0.05, 0.01)) == "−25.0% ± 5.0%"
    assert parts.change_text(Validation(10, 0.15)) == ""


def test_looks_of_pictures(tmp_path):
    for name, colour in (("a", "blue"), ("b", "red")):
        image = Image.new("RGB", (80, 60), "white")
        ImageDraw.Draw(image).rectangle((10, 10, 60, 50), colour)
        image.save(tmp_path / f"{name}.png")
    blue, red = looks_of(tmp_path / "a.png"), looks_of(tmp_path / "b.png")
    assert blue.size == (80, 60)
    assert red.redness > blue.redness + 0.2
    assert blue.difference(blue) == 0
    assert looks_of(tmp_path / "none.png") is None
    assert data_uri(tmp_path / "a.png", 32).startswith("data:image/png;base64,")


# --- what to try next: a rule a test ------------------------------------------------------------------------------


def titles(facts: RunFacts) -> str:
    return " | ".join(found.title for found in advice(facts))


GOOD = RunFacts(
    settings=settings(),
    last_step=400,
    validations=validations(0.3, 0.25, 0.22, 0.205, 0.201, 0.2, 0.2002, 0.2, 0.2001),
    best=(350, "lowest"),
    delivered=350,
    norms=[(1, 0.4), (400, 0.9)],
    similarities=[(1, 1.0), (400, 0.3)],
    pictures=[picture(i, fingerprint=0xFFFF << 16 * i, border=60.0 * i) for i in range(1, 5)],
    picture_count=4,
    tests={"plain": Looks((64, 64), 0, 0.1, (0, 0, 0)), "elsewhere": Looks((64, 64), (1 << 100) - 1, 0.1, (0, 0, 0)),
           "another colour": Looks((64, 64), 0, 0.4, (0, 0, 0))},
    vocabulary_norm=0.3,
)  # fmt: skip
"""A run that nothing can be said against; each rule is tried on it with one thing changed."""


def test_good_run_gets_no_advice():
    assert advice(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"validations": validations(0.3, 0.28, 0.26, 0.24, 0.23, 0.22, 0.21, 0.2, 0.19), "best": None}, "More steps: 800"),
        ({"validations": validations(0.3, 0.22, 0.2, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26), "best": (100, "")},
         "Fewer steps, about 100, or more pictures"),
        ({"validations": validations(0.3, 0.299, 0.3, 0.301, interval=0.01), "best": None}, "Another start"),
        ({"similarities": [(1, 1.0), (400, 0.99995)]}, "A higher learning rate than 0.005"),
        ({"norms": [(1, 0.4), (400, 418.0)]}, "A lower learning rate than 0.005, or fewer steps"),
        ({"norms": [(1, 0.4), (400, 418.0)], "vocabulary_norm": None}, "A lower learning rate than 0.005, or fewer steps"),
        ({"state": "failed", "message": "the loss of step 3 is not a number"}, "A lower learning rate than 0.005"),
        ({"warnings": ["the vectors are no numbers any more"], "settings": settings(precision="fp16")}, "Precision fp32"),
        ({"picture_count": 2, "pictures": []}, "More pictures"),
        ({"pictures": [picture(i, border=9.0 * (i % 2)) for i in (1, 2, 3)]}, "Remove a double: picture 1 or 3"),
        ({"pictures": [picture(i, fingerprint=0xFFFF << 16 * i) for i in (1, 2, 3)]}, "Different backgrounds"),
        ({"settings": settings(resolution=512)}, "Larger pictures, or a resolution of 64"),
        ({"tests": {**GOOD.tests, "another colour": GOOD.tests["plain"]}}, "Captions that name the colours"),
        ({"tests": {**GOOD.tests, "elsewhere": GOOD.tests["plain"]}}, "Captions that name the surroundings"),
        ({"settings": settings(memory="low")}, "Another card"),
        ({"validations": [], "best": None}, "Train with validation"),
    ],
)  # fmt: skip
def test_each_rule_follows_from_its_figures(changes, expected):
    found = titles(dataclasses.replace(GOOD, **changes))
    assert expected in found
    assert expected not in titles(GOOD)


def test_noise_at_the_end_is_no_reason_for_more_steps():
    falling = validations(0.3, 0.25, 0.22, 0.205, 0.2, 0.2, 0.2, 0.1995, 0.199)
    assert titles(dataclasses.replace(GOOD, validations=falling, best=None)) == ""


def test_clear_fall_measured_on_few_draws_is_no_failure():
    fallen = validations(0.3, 0.27, 0.25, 0.25, interval=0.1)
    assert "Another start" not in titles(dataclasses.replace(GOOD, validations=fallen, best=None))


def test_previews_with_and_without_the_word_share_a_row(tmp_path):
    history, image = RunHistory(), {"prompt": "a house", "seed": 1, "seed_index": 0, "file": "x"}
    for step in (0, 5, 10):
        history.add([Event("preview", {**image, "step": step, "prompt_index": 0, "negative_prompt": "my-mug"})])
    history.add([Event("preview", {**image, "step": 0, "prompt_index": 1, "negative_prompt": ""})])
    text = samples.previews(RunFolder(tmp_path), history, 5)
    assert text.count('class="row"') == 1
    assert re.findall(r"<figcaption>([^<]*)", text) == ["without the word", "step 0", "step 5", "step 10"]
    assert text.count('class="chosen"') == 1


def test_test_pictures_of_a_negative_embedding_stand_in_pairs(tmp_path):
    history = RunHistory()
    for i, (prompt, label) in enumerate(
        [("a house", "with"), ("a house", "without"), ("a fish", "with"), ("a fish", "without")]
    ):
        history.add([Event("test", {"prompt": prompt, "label": label, "prompt_index": i, "seed": 1, "file": "x"})])
    assert samples.test_pictures(RunFolder(tmp_path), history).count('class="pair"') == 2


def test_captions_silence_the_advice_on_grounds():
    pictures = [picture(i, fingerprint=0xFFFF << 16 * i, captioned=True) for i in (1, 2, 3)]
    assert "backgrounds" not in titles(dataclasses.replace(GOOD, pictures=pictures))


def test_empty_run_has_facts(tmp_path):
    shutil.copytree(OLD_RUNS / "finished", tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").unlink()
    facts = gather_facts(RunFolder.open(tmp_path / "run"), RunHistory())
    assert (facts.state, facts.last_step, facts.best_validation) == ("training", 0, None)
    assert not Elements(report_html(RunFolder.open(tmp_path / "run"))).open
