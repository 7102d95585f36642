"""The event log: what a run reports survives kills, and reads the same to everyone."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.runs.events import EVENT_FIELDS, TERMINAL_KINDS, Event, EventLog, RunHistory, read_events


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def event_kinds(path):
    return [event.kind for event in read_events(path)[0]]


def test_append_and_read(path):
    log = EventLog(path)
    written = [log.append("loading", checkpoint="sd é.safetensors"), log.append("step", step=1, loss=0.25)]
    events, end = read_events(path)
    assert [(e.kind, e.data) for e in events] == [(e.kind, e.data) for e in written]
    assert events[1].time == pytest.approx(written[1].time, abs=0.001)
    assert end == path.stat().st_size


def test_event_is_one_json_line(path):
    EventLog(path).append("warning", message="two\nlines")
    (line,) = path.read_bytes().splitlines()
    record = json.loads(line)
    assert record.pop("time") > 1.7e9
    assert record == {"kind": "warning", "message": "two\nlines"}


def test_read_continues_from_an_offset(path):
    log = EventLog(path)
    log.append("loading", checkpoint="a")
    _, after = read_events(path)
    assert read_events(path, after) == ([], after)
    log.append("stopped", step=3)
    events, end = read_events(path, after)
    assert [e.kind for e in events] == ["stopped"]
    assert read_events(path, end) == ([], end)


def test_missing_log_is_empty(path):
    assert read_events(path) == ([], 0)


def test_incomplete_last_line_is_not_read(path):
    log = EventLog(path)
    log.append("loading", checkpoint="a")
    complete = path.stat().st_size
    log.append("stopped", step=3)
    line = path.read_bytes()[complete:]
    for length in range(1, len(line)):  # as a reader may find it while it is being written
        path.write_bytes(path.read_bytes()[:complete] + line[:length])
        events, end = read_events(path)
        assert ([e.kind for e in events], end) == (["loading"], complete)
    with path.open("ab") as file:
        file.write(b"\n")
    assert [e.kind for e in read_events(path, complete)[0]] == ["stopped"]


@pytest.mark.faults("torn event log")
def test_next_writer_terminates_a_torn_line(path):
    log = EventLog(path)
    log.append("loading", checkpoint="a")
    log.append("stopped", step=3)
    path.write_bytes(path.read_bytes()[:-5])
    _, after = read_events(path)
    EventLog(path).append("saving", step=4)
    assert event_kinds(path) == ["loading", "saving"]
    assert [e.kind for e in read_events(path, after)[0]] == ["saving"], "a reader that was there before sees it too"


def test_complete_log_is_not_modified(path):
    EventLog(path).append("loading", checkpoint="a")
    before = path.read_bytes()
    EventLog(path)
    assert path.read_bytes() == before


def test_unknown_kinds_and_fields_are_skipped(path):
    path.write_text('{"kind": "of tomorrow", "time": 1}\n{"kind": "saving", "time": 2, "step": 1, "of tomorrow": 2}\n')
    assert read_events(path)[0] == [Event("saving", {"step": 1}, 2.0)]


def test_undeclared_events_raise(path):
    with pytest.raises(ValueError, match="no \\['colour'\\]"):
        EventLog(path).append("step", step=1, colour="red")
    with pytest.raises(KeyError):
        EventLog(path).append("lunch")
    assert event_kinds(path) == []


def test_terminal_kinds_are_declared():
    assert EVENT_FIELDS.keys() > TERMINAL_KINDS


def test_lone_surrogates_are_replaced(path):
    """File names on Linux are bytes; Python hands their odd ones on as surrogates."""
    EventLog(path).append("warning", message="picture \udcff.png")
    assert read_events(path)[0][0].data["message"] == "picture ?.png"


def test_history_keeps_the_later_record_of_a_step(path):
    log = EventLog(path)
    for step, loss in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.22), (3, 0.33)):
        log.append("step", step=step, loss=loss)
    for seed_index, file in ((0, "old"), (1, "other"), (0, "new")):
        log.append("preview", step=2, prompt_index=0, seed_index=seed_index, file=file)
    log.append("snapshot", step=2, file="old")
    log.append("snapshot", step=2, file="new")
    log.append("warning", message="a")
    history = RunHistory().add(read_events(path)[0])
    assert {step: event.data["loss"] for step, event in history.steps.items()} == {1: 0.1, 2: 0.22, 3: 0.33}
    assert {place: event.data["file"] for place, event in history.previews.items()} == {
        (2, 0, 0): "new",
        (2, 0, 1): "other",
    }
    assert history.snapshots[2].data["file"] == "new"
    assert [event.data["message"] for event in history.warnings] == ["a"]
    assert history.last.data["loss"] == 0.33, "outputs and warnings do not say where a run stands"


def test_history_grows_incrementally(path):
    log, history, after = EventLog(path), RunHistory(), 0
    for step in range(1, 6):
        log.append("step", step=step)
        events, after = read_events(path, after)
        history.add(events)
    log.append("finished", step=5, file="x")
    assert history.add(read_events(path, after)[0]) == RunHistory().add(read_events(path)[0])
    assert history.last.kind in TERMINAL_KINDS


@given(st.integers(0), st.binary() | st.just(b"\0" * 64))
@example(0, b'{"kind": [], "time": 1}\n')
@example(0, b'{"kind": "step", "time": %s}\n' % (b"1" * 400))
@example(0, b'{"kind": "step", "time": 1}\n')
@example(0, b'{"kind": "step", "time": 1, "step": {}}\n')
@example(0, b'{"kind": "step", "time": 1, "step": "1"}\n')
@example(0, b'{"kind": "preview", "time": 1, "step": 1}\n')
@example(0, b'["kind", "time"]\n')
@example(0, b"[" * 100_000 + b"\n")
def test_damaged_log_is_readable_and_appendable(tmp_path_factory, cut, tail):
    path = tmp_path_factory.getbasetemp() / "broken.jsonl"
    path.unlink(missing_ok=True)
    log = EventLog(path)
    for step in (1, 2, 3):
        log.append("step", step=step)
    intact = path.read_bytes()[: cut % (path.stat().st_size + 1)]
    path.write_bytes(intact + tail)
    EventLog(path).append("finished", step=9, file="x")
    events, end = read_events(path)
    assert end == path.stat().st_size
    intact_lines = intact.count(b"\n")
    assert [event.data["step"] for event in events[:intact_lines]] == [1, 2, 3][:intact_lines]
    history = RunHistory().add(events)
    assert history.last.kind == "finished"
    assert max(history.steps, default=0) >= intact_lines
