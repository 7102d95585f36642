"""Odd lines in an event log, odd runs among good ones, and very many of them: the list and the page go on."""

import json
import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_ti.cli import main
from lib_ti.runs.events import EVENT_FIELDS, Event, EventLog, RunHistory, read_events
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.listing import RunListing, find_runs
from lib_ti.runs.queue import RunQueue
from lib_ti.runs.report.run_report import report_html
from lib_ti.webui.api.runs_view import PAGE, RunsView
from lib_ti.webui.images.thumbnails import ThumbnailCache

FINISHED = Path(__file__).parent / "golden" / "old_runs" / "finished"
MANY = 10_000

ODD_VALUES = [
    "NaN", "Infinity", "-Infinity", "1e999", "[]", "[1]", "{}", '"4"', "true", "null", "1" + "0" * 400, "-1e308", "1.5",
    '"\\ud800"',
]  # fmt: skip


def strict_json(value) -> None:
    """What a browser parses: no NaN, no infinity."""
    json.dumps(value, allow_nan=False)


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    """A good run, and one called "odd" that a test fills."""
    for name in ("good", "odd"):
        folder = tmp_path / "runs" / name / "2026-01-01T00-00-00"
        folder.mkdir(parents=True)
        record = json.loads((FINISHED / "settings.json").read_text(encoding="utf-8"))
        record["settings"]["name"] = name
        (folder / "settings.json").write_text(json.dumps(record), encoding="utf-8")
        shutil.copy(FINISHED / "events.jsonl", folder)
    return tmp_path / "runs"


def view(runs_dir: Path) -> RunsView:
    return RunsView(lambda: runs_dir, RunQueue(lambda job: nullcontext(lambda: False)), ThumbnailCache())


def odd_lines() -> list[str]:
    lines = []
    for kind, fields in EVENT_FIELDS.items():
        for value in ODD_VALUES:
            lines += [
                f'{{"kind": "{kind}", "time": 1.8e9, "step": 2, "prompt_index": 0, "seed_index": 0, "{field}": {value}}}'
                for field in sorted(fields)
            ]
            lines.append(f'{{"kind": "{kind}", "time": {value}}}')
    return [
        *lines,
        "{}",
        "[]",
        "3",
        "null",
        '{"kind": []}',
        '{"kind": {}, "time": 1}',
        "\x00",
        "{" * 5000,
        "[" * 100_000,
    ]


@pytest.mark.faults("odd lines and unreadable runs")
def test_odd_lines_hide_nothing(runs_dir, capsys):
    """Every field of every kind, with values of other kinds; alone and among good lines."""
    folder = RunFolder(runs_dir / "odd" / "2026-01-01T00-00-00")
    good = folder.events.read_bytes()
    folder.events.write_bytes("\n".join(odd_lines()).encode("utf-8", "surrogatepass") + b"\n" + good)
    shown = view(runs_dir)
    rows, total = shown.list_runs()
    assert ({row["name"] for row in rows}, total) == ({"good", "odd"}, 2)
    strict_json(rows)
    assert {row["state"] for row in rows} == {"finished"}
    after = 0
    while True:
        reply = shown.follow("odd/2026-01-01T00-00-00", after)
        strict_json(reply)
        after = reply["after"]
        if not reply["more"]:
            break
    assert reply["state"] == "finished"
    assert main(["runs", str(runs_dir), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert "<html" in report_html(folder)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_a_step_with_an_odd_number(runs_dir, value):
    """As the last line of a run that was cut off: the row and the poll say what else is known."""
    folder = RunFolder(runs_dir / "odd" / "2026-01-01T00-00-00")
    folder.events.write_text(
        '{"kind": "step", "time": 1.7e9, "step": 1, "steps": 6, "loss": 0.5, "smoothed_loss": 0.5}\n'
        f'{{"kind": "step", "time": 1.7e9, "step": 2, "steps": {value}, "loss": {value}, "smoothed_loss": {value}}}\n'
    )
    shown = view(runs_dir)
    (row,) = (row for row in shown.list_runs()[0] if row["name"] == "odd")
    strict_json([row, shown.follow("odd/2026-01-01T00-00-00", 0)])
    assert row["step"] == 2


@given(
    st.dictionaries(
        st.sampled_from(sorted({name for fields in EVENT_FIELDS.values() for name in fields} | {"kind", "time"})),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=3
        )
        | st.sampled_from(sorted(EVENT_FIELDS)),
        max_size=8,
    )
)
def test_whatever_a_line_holds_its_event_is_sound(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "sound.jsonl"
    path.write_text(json.dumps(record) + "\n")
    for event in read_events(path)[0]:
        strict_json([event.data, event.time])
        RunHistory().add([event])
        time.gmtime(event.time)
        assert json.loads(event.to_json())["kind"] == record["kind"]


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("step", step=1, loss=math.nan, norm=math.inf, similarity=-math.inf, learning_rate=0.1)
    text = (tmp_path / "events.jsonl").read_text()
    assert not {"NaN", "Infinity"} & set(text.replace(",", " ").split())
    (event,) = read_events(tmp_path / "events.jsonl")[0]
    assert event.data == {"step": 1, "learning_rate": 0.1}
    assert "NaN" not in Event("validation", {"step": 2, "loss": math.nan}).to_json()


DAMAGES = {
    "settings": lambda run: (run / "settings.json").write_text('{"settings": {"steps": [1]}}'),
    "settings are a folder": lambda run: (run / "settings.json").unlink() or (run / "settings.json").mkdir(),
    "events are a folder": lambda run: (run / "events.jsonl").unlink() or (run / "events.jsonl").mkdir(),
    "binary": lambda run: (run / "events.jsonl").write_bytes(bytes(range(256)) * 50),
    "lock is a folder": lambda run: (run / "lock").mkdir(),
    "images are a file": lambda run: (run / "images").write_text("x"),
}


@pytest.mark.faults("odd lines and unreadable runs")
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_bad_run_hides_no_other(runs_dir, damage, capsys):
    DAMAGES[damage](runs_dir / "odd" / "2026-01-01T00-00-00")
    shown = view(runs_dir)
    rows, total = shown.list_runs()
    assert "good" in {row["name"] for row in rows}
    assert total == len(rows)
    strict_json(rows)
    assert shown.running_elsewhere() is None
    assert shown.follow("good/2026-01-01T00-00-00", 0)["state"] == "finished"
    assert main(["runs", str(runs_dir), "--json"]) == 0
    assert '"name": "good"' in capsys.readouterr().out


def test_an_error_nobody_has_thought_of_hides_no_other(runs_dir, monkeypatch, caplog):
    describe = RunsView._describe

    def fail(self, folder):
        if folder.path.parent.name == "odd":
            raise ZeroDivisionError("odd")
        return describe(self, folder)

    monkeypatch.setattr(RunsView, "_describe", fail)
    shown = view(runs_dir)
    for _ in range(2):
        assert [row["name"] for row in shown.list_runs()[0]] == ["good"]
    assert sum("cannot be listed" in record.message for record in caplog.records) == 1, "said once"


# --- very many -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Ten thousand finished runs of two hundred words."""
    runs_dir = tmp_path_factory.mktemp("many")
    settings, events = ((FINISHED / name).read_bytes() for name in ("settings.json", "events.jsonl"))
    for i in range(MANY):
        folder = runs_dir / f"word-{i % 200}" / time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(1.7e9 + 61 * i))
        folder.mkdir(parents=True)
        (folder / "settings.json").write_bytes(settings)
        (folder / "events.jsonl").write_bytes(events)
    yield runs_dir
    shutil.rmtree(runs_dir)


def cpu_seconds(work) -> float:
    """The least of three: other programs must not count."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


@pytest.mark.faults("10,000 finished runs in the list")
def test_ten_thousand_runs_open_within_a_second(many, note):
    opening = cpu_seconds(lambda: view(many).list_runs())
    shown = view(many)
    rows, total = shown.list_runs()
    assert (len(rows), total) == (PAGE, MANY)
    assert opening < 1.0
    pages = [shown.list_runs(offset)[0] for offset in range(0, 3 * PAGE, PAGE)]
    ids = [row["id"] for page in pages for row in page]
    dates = [run.rpartition("/")[2] for run in ids]
    assert dates == sorted(dates, reverse=True)
    assert len(set(ids)) == 3 * PAGE
    polling = cpu_seconds(shown.version)
    assert polling < 0.02
    note(f"opens in {opening:.2f} s")


def test_listing_notices_what_comes_and_goes(runs_dir):
    listing = RunListing()
    names = lambda: [run.path.parent.name for run in listing.find(runs_dir)]  # noqa: E731
    assert names() == ["odd", "good"]
    for second in range(3):
        new = runs_dir / "new" / f"2027-01-01T00-00-0{second}"
        new.mkdir(parents=True)
        (new / "settings.json").write_bytes((FINISHED / "settings.json").read_bytes())
        assert names() == ["new"] * (second + 1) + ["odd", "good"]
    shutil.rmtree(runs_dir / "odd")
    assert names() == ["new", "new", "new", "good"]
    (runs_dir / "new" / "2027-01-01T00-00-01").rename(runs_dir / "new" / ".deleted-2027-01-01T00-00-01")
    assert names() == ["new", "new", "good"]
    assert find_runs(runs_dir / "nowhere") == []
