"""Training programs, started as a user starts them and measured from outside, one turn of steps at a time."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PRIVATE = ROOT / "private"
STAMP = Path(__file__).with_name("stamp.py")
PATIENCE_S = 1200.0


BUSY = 0.05
"""Share of the processor that others may have used while a turn counts as undisturbed."""


class Failed(Exception):
    """A program ended, or said nothing for too long; carries its last words."""


class Program(ABC):
    """A training in a process of its own. Between turns it waits, with its model in memory.

    `times`: seconds a step, one of each turn. `disturbance`: the share of the processor that others used meanwhile, for each of
    them, where the system tells (Linux). `peak_mb`: the most memory it had; on a card all that it took there, the CUDA
    context included, else the process's resident memory.
    """

    def __init__(self, title: str, python: Path, command: Sequence[str], where: Path, env: Mapping[str, str]) -> None:
        self.title, self.python, self.command, self.where = title, python, [*command], where
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **env}
        self.times: list[float] = []
        self.disturbance: list[float] = []
        self.peak_mb = 0.0
        self.on_card = False
        self._held_mb = 0.0
        self._said = ""
        self._moments: list[tuple[str, float]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, on_card: bool) -> None:
        """Start it and let it come to the end of its first step. Raises Failed."""
        self.on_card = on_card
        with self._memory():
            self._launch()

    def turn(self, steps: int) -> float:
        """Let it take some more steps, undisturbed; the seconds that one took. Raises Failed."""
        with self._memory():
            return self._turn(steps)

    def measure(self, steps: int, tries: int = 3) -> None:
        """Take a turn, again if others computed meanwhile; the least disturbed one counts."""
        taken: list[tuple[float, float]] = []
        while len(taken) < tries and (not taken or min(taken)[0] > BUSY):
            before = self._processor()
            seconds = self.turn(steps)
            taken.append((_others(before, self._processor()), seconds))
        disturbance, seconds = min(taken)
        self.disturbance.append(disturbance)
        self.times.append(seconds)

    def _processor(self) -> tuple[float, float, float]:
        """The time, and seconds of processor time that all, and that this program and its watcher, have used; zeros elsewhere."""
        own = sum(os.times()[:2])
        try:
            busy = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            if self._process:
                about = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
                own += (int(about[11]) + int(about[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return time.monotonic(), 0.0, 0.0
        return time.monotonic(), (sum(busy) - busy[3] - busy[4]) / os.sysconf("SC_CLK_TCK"), own

    def stop(self) -> None:
        """End it. It may be asked for more than once."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def encoding(self) -> list[float]:
        """Seconds for each picture's latents but the first; empty where it was not seen to encode each once."""
        moments = self._encoded()
        return [b - a for a, b in pairwise(moments)]

    def forget(self) -> None:
        """Drop the turns so far."""
        self.times, self.disturbance = [], []

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def _turn(self, steps: int) -> float: ...

    def _encoded(self) -> list[float]:
        """When each picture was encoded."""
        return []

    def _spawn(self, command: Sequence[str], fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            command, cwd=self.where, env=self.env, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        rest = ""
        while block := os.read(process.stdout.fileno(), 1 << 16):
            *lines, rest = re.split(r"[\r\n]+", rest + block.decode("utf-8", "replace"))
            for line in lines:
                if line.strip():
                    self._said = f"{self._said}\n{line}"[-8000:]
                    self._hear(line, time.time())

    def _hear(self, line: str, moment: float) -> None:
        """A line of its output has come; most tell by other means what matters here."""
        return

    def _wait(self, come: Callable[[], bool]) -> None:
        """Until something has come. Raises Failed where the process ends before, or after a long time."""
        assert self._process
        until = time.monotonic() + PATIENCE_S
        while not come():
            if self._process.poll() is not None:
                time.sleep(0.5)  # its last lines are on their way
                raise Failed(self.last_words())
            if time.monotonic() > until:
                raise Failed(f"no step in {PATIENCE_S:.0f} s; {self.last_words()}")

    def last_words(self) -> str:
        lines = [line.strip() for line in self._said.splitlines() if line.strip()]
        told = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return (told or lines or ["it said nothing"])[-1][:300]

    @contextmanager
    def _memory(self) -> Iterator[None]:
        if not self.on_card:
            yield
            assert self._process
            status = Path(f"/proc/{self._process.pid}/status")
            if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
                self.peak_mb = max(self.peak_mb, int(found[1]) / 1024)
            return
        others, ended = card_mb() - self._held_mb, threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                self.peak_mb = max(self.peak_mb, card_mb() - others)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self._held_mb = card_mb() - others
            self.peak_mb = max(self.peak_mb, self._held_mb)


def _others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """The share of the processor that others used in between."""
    seconds, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(busy - own, 0.0) / (seconds * (os.cpu_count() or 1))


def card_mb() -> float:
    """Memory in use on the first card, by whatever process, in MiB."""
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(told.stdout.split()[0])


class Stamped(Program):
    """Another's program under stamp.py."""

    def _launch(self) -> None:
        (self._stamps, out), (permits, self._permits) = os.pipe(), os.pipe()
        self._spawn([str(self.python), str(STAMP), str(out), str(permits), *self.command], (out, permits))
        os.close(out)
        os.close(permits)
        os.set_blocking(self._stamps, False)
        self._begin()
        self._stamp()

    def _begin(self) -> None:
        """What it has to be told before it trains."""

    def _turn(self, steps: int) -> float:
        began = time.perf_counter()
        os.write(self._permits, b"." * steps)
        for _ in range(steps):
            self._stamp()
        return (time.perf_counter() - began) / steps

    def _stamp(self) -> None:
        def come() -> bool:
            try:
                return bool(os.read(self._stamps, 1))
            except BlockingIOError:
                time.sleep(0.0005)
                return False

        self._wait(come)


class Ours(Program):
    """`python -m lib_ti train`, by its own events. It is halted by a signal while others have their turn."""

    def __init__(self, python: Path, options: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = ["-m", "lib_ti", "train", *flags, *extra, "--json"]
        super().__init__("ours", python, command, ROOT, environment(python))
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.runs = Path(options["runs-dir"])

    @property
    def settings(self) -> dict[str, Any]:
        """Of the run, with nothing "auto" any more."""
        (path,) = self.runs.rglob("settings.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _hear(self, line: str, moment: float) -> None:
        if line.startswith('{"kind"'):
            event = json.loads(line)
            self._moments.append((event["kind"], event["time"]))
            self.events.put(event)

    def to_the_end(self, on_card: bool) -> list[dict[str, Any]]:
        """Let it train to its end; what it reported. Raises Failed."""
        self.on_card, events = on_card, list[dict[str, Any]]()
        with self._memory():
            self.launch()
            while not events or events[-1]["kind"] != "finished":
                events.append(self.next_event())
        return events

    def launch(self) -> None:
        """Start it and let it run on."""
        self._spawn([str(self.python), *self.command])

    def _launch(self) -> None:
        self.launch()
        self.await_event("step")
        self._halt()

    def _turn(self, steps: int) -> float:
        assert self._process
        resumed = time.time()
        os.killpg(self._process.pid, signal.SIGCONT)
        began = self.await_event("step", resumed)["time"]  # of the step that the halt fell into
        for _ in range(steps):
            ended = self.await_event("step", resumed)["time"]
        self._halt()
        return float(ended - began) / steps

    def _halt(self) -> None:
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)

    def await_event(self, kind: str, since: float = 0.0) -> dict[str, Any]:
        """The next event of a kind, of those that have happened since. Raises Failed."""
        while (event := self.next_event())["kind"] != kind or event["time"] < since:
            pass
        return event

    def next_event(self) -> dict[str, Any]:
        """What it reports next. Raises Failed."""
        found: list[dict[str, Any]] = []

        def come() -> bool:
            try:
                found.append(self.events.get(timeout=0.05))
            except queue.Empty:
                return False
            return True

        self._wait(come)
        return found[0]

    def _encoded(self) -> list[float]:
        return [moment for kind, moment in self._moments if kind == "encoding"]


def environment(python: Path) -> dict[str, str]:
    """What this project needs to run in a Python: where diffusers is not installed, as in A1111, its private copy."""
    asked = [str(python), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('diffusers') is None)"]
    if subprocess.run(asked, cwd=Path(python).parent, check=False).returncode == 0:
        return {"PYTHONPATH": str(ROOT)}
    if not PRIVATE.is_dir():
        raise SystemExit(f"{python} has no diffusers; run `{python} install.py` first")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PRIVATE)])}
