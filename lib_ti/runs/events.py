"""What a run reports, as lines of JSON that are only ever appended.

Readers survive a torn last line (a process was killed while it wrote) and skip kinds they do not know. After a resume
some steps are reported twice; the later report counts (`Timeline`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIELDS: dict[str, frozenset[str]] = {
    "queued": frozenset({"place"}),
    "loading": frozenset({"checkpoint", "folder"}),
    "encoding": frozenset({"done", "images"}),
    "step": frozenset(
        {"step", "steps", "loss", "smoothed_loss", "learning_rate", "learning_rate_2", "norm", "similarity", "images_per_s",
         "seconds_left", "memory_mb"}
    ),
    "preview": frozenset({"step", "prompt", "prompt_index", "seed", "seed_index", "file"}),
    "validation": frozenset({"step", "loss"}),
    "snapshot": frozenset({"step", "file"}),
    "saving": frozenset({"step"}),
    "memory": frozenset({"mode", "batch_size", "acceleration", "needed_mb", "free_mb"}),
    "warning": frozenset({"message"}),
    "finished": frozenset({"step", "file"}),
    "stopped": frozenset({"step"}),
    "failed": frozenset({"message"}),
}  # fmt: skip
"""The kinds of event and what each carries beside `kind` and `time` (seconds since 1970).

`learning_rate_2`: of the second text encoder, where there is one. `memory_mb`: peak memory of the device, or of the process
on a CPU. `norm`: mean length of the vectors. `similarity`: mean cosine to where they started. `file`: relative to the run
folder, but absolute in `finished`. `memory`: how memory and time are saved from here on; `needed_mb` is an estimate, and both
numbers hold what CUDA itself takes on the card.
"""

_PLACE = {"step": ("step",), "preview": ("step", "prompt_index", "seed_index"), "snapshot": ("step",)}
"""By what readers file an event; without it, it is unreadable."""

_STEP = b'{"kind": "step"'  # how `EventLog` begins the line of one

ENDINGS = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True)
class Event:
    """Something a run reports: its kind, what `FIELDS` says the kind carries, and when, in seconds since 1970."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0

    def __post_init__(self) -> None:
        if unknown := self.data.keys() - FIELDS[self.kind]:
            raise ValueError(f"event {self.kind!r} has no {sorted(unknown)}")

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "time": round(self.time, 3), **self.data}, ensure_ascii=False)


class EventLog:
    """Appends events to a file, each in one write, so that a reader never sees half of one that was finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mend()

    def _mend(self) -> None:
        """End a line that was torn, so that the next event starts on its own."""
        if self._path.exists() and (data := self._path.read_bytes()) and not data.endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")

    def append(self, kind: str, **data: Any) -> Event:
        event = Event(kind, data, time.time())
        with self._path.open("ab", buffering=0) as file:
            file.write(event.to_json().encode("utf-8", "replace") + b"\n")
        return event


def read(path: Path, after: int = 0, most: int = -1) -> tuple[list[Event], int]:
    """The events from byte `after` on, and the byte to go on from. Unfinished and unreadable lines are left out.

    Of `most` bytes at a time, where that is given; it must be more than a line.
    """
    whole = _whole_lines(path, after, most)
    return list(_parse(whole.splitlines())), after + len(whole)


def read_milestones(path: Path, after: int = 0) -> tuple[list[Event], int]:
    """As `read`, but of the steps only the last: quick, where a run has very many."""
    whole = _whole_lines(path, after)
    lines = whole.splitlines()
    last = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].startswith(_STEP)), None)
    return list(_parse(x for i, x in enumerate(lines) if i == last or not x.startswith(_STEP))), after + len(whole)


def _whole_lines(path: Path, after: int, most: int = -1) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(after)
        data = file.read(most)
    return data[: data.rfind(b"\n") + 1]


def _parse(lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            record = json.loads(line)
            kind, moment = record.pop("kind"), float(record.pop("time"))
            known = kind in FIELDS and all(type(record.get(name)) is int for name in _PLACE.get(kind, ()))
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
            continue  # torn by a kill, then mended: the event is lost, the log is not
        if known:
            yield Event(kind, {k: v for k, v in record.items() if k in FIELDS[kind]}, moment)


@dataclass
class Timeline:
    """Events put in order: one record for each step and preview, the later one where a resume repeated them."""

    steps: dict[int, Event] = field(default_factory=dict)
    previews: dict[tuple[int, int, int], Event] = field(default_factory=dict)
    snapshots: dict[int, Event] = field(default_factory=dict)
    warnings: list[Event] = field(default_factory=list)
    memory: Event | None = None
    last: Event | None = None

    def add(self, events: list[Event]) -> Timeline:
        for event in events:
            data = event.data
            if event.kind == "step":
                self.steps[data["step"]] = event
            elif event.kind == "preview":
                self.previews[data["step"], data["prompt_index"], data["seed_index"]] = event
            elif event.kind == "snapshot":
                self.snapshots[data["step"]] = event
            elif event.kind == "warning":
                self.warnings.append(event)
            elif event.kind == "memory":
                self.memory = event
            if event.kind not in ("memory", "warning", "preview", "snapshot", "validation"):
                self.last = event
        return self
