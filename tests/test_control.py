"""The parent's lines on a training's standard input, however they arrive."""

import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from lib_ti.cli import control
from lib_ti.cli.control import Control


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (received := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(received)


@pytest.fixture
def exits(monkeypatch):
    """Exit codes of `os._exit`, which is faked; it is called without delay at the end of the input."""
    codes = []
    monkeypatch.setattr(control, "EXIT_DELAY_S", 0.0)
    monkeypatch.setattr(control, "os", SimpleNamespace(read=os.read, _exit=codes.append))
    return codes


@pytest.fixture
def pipe(exits):
    """A `Control` and a function that writes to it; None closes its input."""
    reading, writing = os.pipe()
    still_open = [writing]

    def write(data: bytes | None) -> None:
        if data is None:
            os.close(still_open.pop())
        else:
            os.write(writing, data)

    yield Control(reading), write
    if still_open:
        write(None)
    listeners = [thread for thread in threading.enumerate() if thread.name == "control"]
    for thread in listeners:
        thread.join(5)
    os.close(reading)


def test_lines_split_across_reads_are_joined(pipe):
    control, write = pipe
    received = []
    reader = threading.Thread(target=lambda: received.append(control.read_request()))
    reader.start()
    for part in (b'{"settings": {"na', b'me": "gr', "ü".encode()[:1], "ü".encode()[1:], b'n"}}\ng'):
        write(part)
        time.sleep(0.03)
    reader.join(5)
    assert json.loads(received[0]) == {"settings": {"name": "grün"}}
    control.listen()
    time.sleep(0.05)
    assert not control._started.is_set()
    write(b"o\nsam")
    assert control.wait_for_go()
    assert not control.preview_requested()
    write(b"ple\n")
    assert wait_until(control.preview_requested)
    assert not control.preview_requested(), "asked for once, made once"
    assert not control.stopped()


def test_lines_in_one_read_are_all_handled(pipe):
    control, write = pipe
    write(b'{"run": "x"}\ngo\nsample\nstop\n')
    assert control.read_request() == '{"run": "x"}'
    control.listen()
    assert wait_until(control.stopped)
    assert control.preview_requested()


def test_stop_right_after_the_request_prevents_the_start(pipe):
    control, write = pipe
    write(b"{}\nstop\n")
    assert control.read_request() == "{}"
    control.listen()
    assert not control.wait_for_go()


def test_long_request_is_read_completely(pipe):
    control, write = pipe
    text = json.dumps({"settings": {"preview_prompt": ["[name] " * 100] * 1000}})
    writer = threading.Thread(target=lambda: write(text.encode() + b"\n"))
    writer.start()
    assert control.read_request() == text
    writer.join(5)


def test_end_of_input_stops_and_exits_after_a_delay(pipe, exits):
    control, write = pipe
    write(b"{}\ngo\n")
    control.read_request()
    control.listen()
    assert control.wait_for_go()
    write(None)
    assert wait_until(control.stopped)
    assert wait_until(lambda: exits == [1])


def test_end_of_input_before_the_start_stops(pipe):
    control, write = pipe
    write(b"{}\n")
    control.read_request()
    control.listen()
    write(None)
    assert not control.wait_for_go()


def test_missing_request_is_empty(pipe):
    control, write = pipe
    write(None)
    assert control.read_request() == ""


def test_incomplete_last_line_is_ignored(pipe):
    control, write = pipe
    write(b"{}\ngo")
    control.read_request()
    control.listen()
    write(None)
    assert not control.wait_for_go()


@pytest.mark.parametrize(
    "line", [b"", b"GO", b"go on", b"pause", b"\xff\xfe\0", b"stop!", b'{"do": "stop"}', b"s" * 70_000]
)
def test_unknown_lines_are_ignored(pipe, line):
    control, write = pipe
    write(b"{}\n")
    control.read_request()
    control.listen()
    write(line + b"\n")
    time.sleep(0.05)
    assert not control._started.is_set()
    assert not control.stopped()
    assert not control.preview_requested()
    write(b" go\r\n")  # as Windows ends lines
    assert control.wait_for_go()


def test_unreadable_descriptor_counts_as_end_of_input(exits):
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert Control(reading).read_request() == ""
