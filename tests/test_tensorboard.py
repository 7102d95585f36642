"""Curves for TensorBoard: the file as its own reader reads it, and as the format says."""

import struct

import pytest
from test_results import finished, host, run  # noqa: F401

from lib_ti.cli.commands import report
from lib_ti.runs.events import Event
from lib_ti.runs.report.tensorboard import _masked_crc, encode_events, write_tensorboard

EVENTS = [
    Event("step", {"step": 1, "loss": 0.5, "norm": 0.25, "memory_mb": 300}, 100.0),
    Event("step", {"step": 300, "loss": 0.125, "similarity": None}, 101.5),
    Event("validation", {"step": 300, "loss": 0.75, "change": -0.5}, 102.0),
]


def records(data):
    """The data of each TFRecord, both of whose checksums must be right."""
    while data:
        (length,) = struct.unpack_from("<Q", data)
        assert data[8:12] == _masked_crc(data[:8])
        assert data[12 + length : 16 + length] == _masked_crc(data[12 : 12 + length])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_checksum_is_the_masked_castagnoli_crc():
    """RFC 3720, B.4: 32 bytes of zeros have 0x8a9136aa."""
    crc = 0x8A9136AA
    assert _masked_crc(bytes(32)) == struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_records():
    version, *scalars = records(encode_events(EVENTS))
    assert version == b"\x09" + bytes(8) + b"\x1a\x0dbrain.Event:2"
    assert len(scalars) == 6
    scalar = b"\x0a\x0atrain/loss\x15" + struct.pack("<f", 0.125)
    value = b"\x0a" + bytes([len(scalar)]) + scalar
    assert scalars[3] == b"\x09" + struct.pack("<d", 101.5) + b"\x10\xac\x02" + b"\x2a" + bytes([len(value)]) + value


def test_command_writes_beside_the_report(run, capsys):  # noqa: F811
    assert report([str(run.path), "--tensorboard"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("report.html")
    file = run.path / "tensorboard" / f"events.out.tfevents.0.{run.path.name}"
    assert printed[1] == str(file)
    steps = [record for record in records(file.read_bytes()) if b"train/loss" in record]
    assert len(steps) == 6


def test_the_reader_of_tensorboard(run):  # noqa: F811
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file = write_tensorboard(run)
    accumulator = accumulators.EventAccumulator(str(file.parent)).Reload()
    losses = {event.step: event.value for event in accumulator.Scalars("train/loss")}
    assert losses == {step: pytest.approx(event.data["loss"]) for step, event in run.history().steps.items()}
