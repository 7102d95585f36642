"""A run's curves as an event file of TensorBoard, without its package.

The file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h: length, masked CRC-32C of it, data, masked CRC-32C of
that), each a protocol buffer `Event` (tensorflow/core/util/event.proto) with one scalar.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from lib_ti import files
from lib_ti.runs.events import Event
from lib_ti.runs.folder import RunFolder

STEP_TAGS = {
    "loss": "train/loss",
    "smoothed_loss": "train/smoothed_loss",
    "learning_rate": "train/learning_rate",
    "learning_rate_2": "train/learning_rate_2",
    "norm": "vectors/norm",
    "similarity": "vectors/similarity",
    "images_per_s": "speed/images_per_s",
    "memory_mb": "memory/peak_mb",
}
VALIDATION_TAGS = {"loss": "validation/loss", "change": "validation/change", "interval": "validation/interval"}
_TAGS: Mapping[str, Mapping[str, str]] = {"step": STEP_TAGS, "validation": VALIDATION_TAGS}


def write_tensorboard(folder: RunFolder) -> Path:
    """Write the curves of a run, up to now, into the folder `tensorboard` in its own; returns the file. Raises OSError."""
    history = folder.history()
    curves = sorted([*history.steps.values(), *history.validations.values()], key=lambda event: int(event.data["step"]))
    target = folder.path / "tensorboard" / f"events.out.tfevents.0.{folder.path.name}"
    target.parent.mkdir(exist_ok=True)
    files.atomic_write_bytes(target, encode_events(curves))
    return target


def encode_events(events: Iterable[Event]) -> bytes:
    """An event file with the numbers of `step` and `validation` events."""
    return b"".join(map(_tf_record, _messages(events)))


def _messages(events: Iterable[Event]) -> Iterator[bytes]:
    """Event: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5 (Summary).

    Summary: value = 1 (Value). Value: tag = 1 (string), simple_value = 2 (float).
    """
    yield b"\x09" + struct.pack("<d", 0.0) + _delimited(3, b"brain.Event:2")
    for event in events:
        head = b"\x09" + struct.pack("<d", event.time) + b"\x10" + _varint(int(event.data["step"]))
        for field, tag in _TAGS[event.kind].items():
            value = event.data.get(field)
            if isinstance(value, int | float):
                scalar = _delimited(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
                yield head + _delimited(5, _delimited(1, scalar))


def _delimited(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _tf_record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    table = _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _crc_table() -> tuple[int, ...]:
    """Of CRC-32C (Castagnoli), reflected."""
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return tuple(table)
