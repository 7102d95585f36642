"""The event log of a run: one JSON object per line, only ever appended.

Readers survive a torn last line (the process was killed while writing), skip kinds they do not know, and leave out fields
that hold anything but what is declared. After a resume some steps are reported twice; the later counts (`RunHistory`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti.files import naming

EVENT_FIELDS: dict[str, frozenset[str]] = {
    "queued": frozenset({"place"}),
    "pictures": frozenset({"summary"}),
    "loading": frozenset({"checkpoint", "folder"}),
    "encoding": frozenset({"done", "images"}),
    "searching": frozenset({"done", "total"}),
    "start": frozenset({"words"}),
    "step": frozenset(
        {"step", "steps", "loss", "smoothed_loss", "learning_rate", "learning_rate_2", "norm", "similarity", "images_per_s",
         "seconds_left", "memory_mb"}
    ),
    "sampling": frozenset({"done", "total", "noun"}),
    "preview": frozenset({"step", "prompt", "negative_prompt", "prompt_index", "seed", "seed_index", "file"}),
    "validation": frozenset({"step", "loss", "change", "interval", "best_step"}),
    "snapshot": frozenset({"step", "file"}),
    "test": frozenset({"prompt", "negative_prompt", "seed", "prompt_index", "label", "file"}),
    "report": frozenset({"file"}),
    "saving": frozenset({"step"}),
    "memory": frozenset({"mode", "batch_size", "acceleration", "needed_mb", "free_mb"}),
    "warning": frozenset({"message"}),
    "best": frozenset({"step", "reason"}),
    "finished": frozenset({"step", "file", "reason"}),
    "stopped": frozenset({"step"}),
    "failed": frozenset({"message"}),
}  # fmt: skip
"""The kinds of event and the fields of each, beside `kind` and `time` (seconds since 1970).

`pictures`: one line about what is used of the folder of images, and what is not; the first event, written with the run.
`learning_rate_2`: of the second text encoder, where there is one. `memory_mb`: peak memory of the device, or of the process
on a CPU. `norm`: mean norm of the vectors. `similarity`: mean cosine similarity to the initial vectors. `file`: relative to the
run folder, but absolute in `finished`. `memory`: the memory mode and acceleration from here on; `needed_mb` is an estimate, and
both numbers include CUDA's own overhead. `validation`: the mean loss on a fixed set of pictures, noise and timesteps;
`change`: its mean difference to step 0's, negative if the loss has fallen; `interval`: half the width of that difference's 95 %
confidence interval; `best_step`: the best step so far. `best`: the step that is recommended, and a sentence that says why; before
`finished` and `stopped`. `finished`: `step` is the last one trained; `reason` says why it is not the last one planned, or is "".
`sampling`: how many of some pictures are made, before each of them; `noun` is what one is called: "preview" or "test picture".
`searching`: how many trials of words to start from are done. `start`: the words that "auto" has found to start from. `test`: a
picture of the finished embedding; its `label` says what kind of prompt it is.
"""

_KEY_FIELDS = {
    "step": ("step",), "preview": ("step", "prompt_index", "seed_index"), "snapshot": ("step",), "validation": ("step",),
    "best": ("step",), "test": ("prompt_index",),
}  # fmt: skip
"""The fields that `RunHistory` indexes an event by; without one of them the event is skipped."""

_INTEGERS = frozenset(
    {
        "place",
        "done",
        "images",
        "total",
        "step",
        "steps",
        "seed",
        "seed_index",
        "prompt_index",
        "best_step",
        "batch_size",
    }
)
_NUMBERS = frozenset(
    {"loss", "smoothed_loss", "learning_rate", "learning_rate_2", "norm", "similarity", "images_per_s", "seconds_left",
     "memory_mb", "change", "interval", "needed_mb", "free_mb"}
)  # fmt: skip
"""What the fields hold; all others are text."""
_MAX_INTEGER, _MAX_NUMBER, _MAX_TIME = 2**53, 1e300, 5e10  # what JavaScript tells apart and every library can write

_STEP_PREFIX = b'{"kind": "step"'  # how `Event.to_json` begins the line of a step

_ASIDES = frozenset(
    {
        "memory",
        "warning",
        "sampling",
        "preview",
        "snapshot",
        "validation",
        "best",
        "test",
        "report",
        "start",
        "pictures",
    }
)
"""Kinds that do not say what a run is doing."""

TERMINAL_KINDS = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True)
class Event:
    """One entry of the log: its kind, the fields that `EVENT_FIELDS` declares for it, and its time in seconds since 1970."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0

    def __post_init__(self) -> None:
        if undeclared := self.data.keys() - EVENT_FIELDS[self.kind]:
            raise ValueError(f"event {self.kind!r} has no {sorted(undeclared)}")

    def to_json(self) -> str:
        """One line of the log. Numbers that are not finite are left out: they are no JSON."""
        data = {name: v for name, v in self.data.items() if not isinstance(v, float) or math.isfinite(v)}
        record = {"kind": self.kind, "time": round(self.time, 3), **data}
        return json.dumps(record, ensure_ascii=False, allow_nan=False)


class EventLog:
    """Appends events to a file, each with a single write, so that a reader never sees half of a completed event."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._terminate_torn_line()

    def _terminate_torn_line(self) -> None:  # so that the next event starts on its own line
        if self._path.exists() and (data := self._path.read_bytes()) and not data.endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")

    def append(self, kind: str, **data: Any) -> Event:
        event = Event(kind, data, time.time())
        with naming(self._path), self._path.open("ab", buffering=0) as file:
            file.write(event.to_json().encode("utf-8", "replace") + b"\n")
        return event


def read_events(path: Path, offset: int = 0, max_bytes: int = -1) -> tuple[list[Event], int]:
    """The events from byte `offset` on, and the offset to continue from. Incomplete and unreadable lines are skipped.

    Reads at most `max_bytes`, if given; that must be longer than a line.
    """
    data = _read_complete_lines(path, offset, max_bytes)
    return list(_parse(data.splitlines())), offset + len(data)


def read_events_last_step_only(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Like `read_events`, but of all steps only the last: fast even if there are very many."""
    data = _read_complete_lines(path, offset)
    lines = data.splitlines()
    last_step = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].startswith(_STEP_PREFIX)), None)
    selected = (line for i, line in enumerate(lines) if i == last_step or not line.startswith(_STEP_PREFIX))
    return list(_parse(selected)), offset + len(data)


def _read_complete_lines(path: Path, offset: int, max_bytes: int = -1) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(max_bytes)
    return data[: data.rfind(b"\n") + 1]


def _parse(lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            record = json.loads(line)
            kind, timestamp = record.pop("kind"), record.pop("time")
            declared = EVENT_FIELDS[kind]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue  # torn by a kill, then terminated: the event is lost, the log is not
        data = {k: v for k, v in record.items() if k in declared and _is_valid(k, v)}
        is_time = type(timestamp) in (int, float) and abs(timestamp) < _MAX_TIME
        if is_time and all(name in data for name in _KEY_FIELDS.get(kind, ())):
            yield Event(kind, data, float(timestamp))


def _is_valid(name: str, value: Any) -> bool:
    """Whether a field holds what it is declared to; others are left out, whoever wrote them."""
    if name in _INTEGERS:
        return type(value) is int and abs(value) <= _MAX_INTEGER
    if name in _NUMBERS:
        return type(value) in (int, float) and -_MAX_NUMBER < value < _MAX_NUMBER  # false for NaN
    return isinstance(value, str)


@dataclass
class RunHistory:
    """The events of a run by what they are about: of each step, preview, snapshot, validation and test picture the latest.

    `previews` is indexed by (step, prompt index, seed index), `tests` by prompt index.
    """

    steps: dict[int, Event] = field(default_factory=dict)
    previews: dict[tuple[int, int, int], Event] = field(default_factory=dict)
    snapshots: dict[int, Event] = field(default_factory=dict)
    validations: dict[int, Event] = field(default_factory=dict)
    tests: dict[int, Event] = field(default_factory=dict)
    best: Event | None = None
    warnings: list[Event] = field(default_factory=list)
    memory: Event | None = None
    last: Event | None = None  # says what the run is doing, so no outputs, warnings or memory modes

    def add(self, events: list[Event]) -> RunHistory:
        for event, data in ((event, event.data) for event in events):
            if event.kind == "step":
                self.steps[data["step"]] = event
            elif event.kind == "preview":
                self.previews[data["step"], data["prompt_index"], data["seed_index"]] = event
            elif event.kind == "snapshot":
                self.snapshots[data["step"]] = event
            elif event.kind == "validation":
                self.validations[data["step"]] = event
            elif event.kind == "best":
                self.best = event
            elif event.kind == "test":
                self.tests[data["prompt_index"]] = event
            elif event.kind == "warning":
                self.warnings.append(event)
            elif event.kind == "memory":
                self.memory = event
            if event.kind not in _ASIDES:
                self.last = event
        return self

    def last_step(self) -> int:
        """The number of the last step; 0 before the first."""
        return max(self.steps, default=0)

    def seconds_left(self) -> float | None:
        """What the last step says; None before the first."""
        seconds = self.steps[self.last_step()].data.get("seconds_left") if self.steps else None
        return float(seconds) if isinstance(seconds, (int, float)) else None

    def latest_preview(self) -> tuple[int, int, int] | None:
        """The first preview of the last step that has any, as (step, prompt index, seed index)."""
        if not self.previews:
            return None
        latest = max(step for step, _, _ in self.previews)
        return min(index for index in self.previews if index[0] == latest)
