"""Training programs, started as a user starts them and measured from outside, one turn of steps at a time."""

from __future__ import annotations

import os
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

ROOT = Path(__file__).resolve().parent.parent
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
    context included, else the process's, without what is mapped from files; looked at ten times a second.
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
        others, ended = self._taken() - self._held_mb if self.on_card else 0.0, threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                self.peak_mb = max(self.peak_mb, self._taken() - others)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self._held_mb = self._taken() - others
            self.peak_mb = max(self.peak_mb, self._held_mb)

    def _taken(self) -> float:
        """MB of the card, others' included, or of the process."""
        if self.on_card:
            return card_mb()
        if self._process is None:
            return 0.0
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:  # not Linux
            return 0.0
        found = re.search(r"RssAnon:\s+(\d+) kB", status)  # not there once it has ended
        return int(found[1]) / 1024 if found else 0.0


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
