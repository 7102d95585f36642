"""Training programs as child processes, started as a user would and measured from outside, some steps at a time."""

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
STEP_GATE = Path(__file__).with_name("step_gate.py")
TIMEOUT_S = 1200.0

MAX_OTHER_CPU = 0.05
"""Fraction of the CPU that other processes may use during a turn that is not repeated."""


class ProgramFailed(Exception):
    """A program ended or hung; the message is its last output."""


class Program(ABC):
    """A training in a process of its own, which waits between turns with its model in memory.

    Attributes:
        times: seconds per step, one for each turn.
        other_cpu: the fraction of the CPU that other processes used in each turn; Linux only.
        peak_mb: peak memory, sampled ten times a second: on a GPU all of the process's, CUDA context included; else the
            process's anonymous memory, without mapped files.
    """

    def __init__(self, title: str, python: Path, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.title, self.python, self.command, self.cwd = title, python, [*command], cwd
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **env}
        self.times: list[float] = []
        self.other_cpu: list[float] = []
        self.peak_mb = 0.0
        self.on_gpu = False
        self._idle_mb = 0.0
        self._output = ""
        self._timestamps: list[tuple[str, float]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, on_gpu: bool) -> None:
        """Start it and wait for the end of its first step. Raises ProgramFailed."""
        self.on_gpu = on_gpu
        with self._measure_memory():
            self._start()

    def run_steps(self, steps: int) -> float:
        """Let it do some more steps; the seconds per step. Raises ProgramFailed."""
        with self._measure_memory():
            return self._run_steps(steps)

    def measure(self, steps: int, tries: int = 3) -> None:
        """Time some steps, again if other processes used the CPU meanwhile; the least disturbed try counts."""
        results: list[tuple[float, float]] = []
        while len(results) < tries and (not results or min(results)[0] > MAX_OTHER_CPU):
            before = self._cpu_times()
            seconds = self.run_steps(steps)
            results.append((_other_cpu_fraction(before, self._cpu_times()), seconds))
        other_cpu, seconds = min(results)
        self.other_cpu.append(other_cpu)
        self.times.append(seconds)

    def _cpu_times(self) -> tuple[float, float, float]:
        """Clock time, CPU seconds of all processes, and those of this program and the benchmark; zeros where unknown."""
        own = sum(os.times()[:2])
        try:
            fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            if self._process:
                stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
                own += (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return time.monotonic(), 0.0, 0.0
        return time.monotonic(), (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK"), own

    def stop(self) -> None:
        """Kill it; does nothing if it has ended."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def encoding(self) -> list[float]:
        """Seconds to encode each image but the first; empty unless the program reports encoding each image once."""
        return [b - a for a, b in pairwise(self._encoding_timestamps())]

    def reset_times(self) -> None:
        """Discard the measurements so far."""
        self.times, self.other_cpu = [], []

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _run_steps(self, steps: int) -> float: ...

    def _encoding_timestamps(self) -> list[float]:
        """When each image was encoded."""
        return []

    def _spawn(self, command: Sequence[str], fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            command, cwd=self.cwd, env=self.env, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read_output, args=(self._process,), daemon=True).start()

    def _read_output(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        rest = ""
        while block := os.read(process.stdout.fileno(), 1 << 16):
            *lines, rest = re.split(r"[\r\n]+", rest + block.decode("utf-8", "replace"))
            for line in lines:
                if line.strip():
                    self._output = f"{self._output}\n{line}"[-8000:]
                    self._handle_line(line, time.time())

    def _handle_line(self, line: str, timestamp: float) -> None:
        """Handle a line of output; most programs report nothing of use in it."""
        return

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`. Raises ProgramFailed if the process ends before or the wait times out."""
        assert self._process
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self._process.poll() is not None:
                time.sleep(0.5)  # for its last output
                raise ProgramFailed(self.last_output())
            if time.monotonic() > deadline:
                raise ProgramFailed(f"no step in {TIMEOUT_S:.0f} s; {self.last_output()}")

    def last_output(self) -> str:
        lines = [line.strip() for line in self._output.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return (errors or lines or ["it said nothing"])[-1][:300]

    @contextmanager
    def _measure_memory(self) -> Iterator[None]:
        others_mb, done = self._used_mb() - self._idle_mb if self.on_gpu else 0.0, threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                self.peak_mb = max(self.peak_mb, self._used_mb() - others_mb)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self._idle_mb = self._used_mb() - others_mb
            self.peak_mb = max(self.peak_mb, self._idle_mb)

    def _used_mb(self) -> float:
        """MB of the GPU, other processes included, or of this process."""
        if self.on_gpu:
            return gpu_used_mb()
        if self._process is None:
            return 0.0
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:  # not Linux
            return 0.0
        match = re.search(r"RssAnon:\s+(\d+) kB", status)  # missing once it has ended
        return int(match[1]) / 1024 if match else 0.0


def _other_cpu_fraction(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """The fraction of the CPU that other processes used between two `_cpu_times`."""
    seconds, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(busy - own, 0.0) / (seconds * (os.cpu_count() or 1))


def gpu_used_mb() -> float:
    """Used memory of the first GPU by all processes, in MiB."""
    result = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(result.stdout.split()[0])


class GatedProgram(Program):
    """A training script of another project, run by step_gate.py."""

    def _start(self) -> None:
        (self._steps, out), (permits, self._permits) = os.pipe(), os.pipe()
        self._spawn([str(self.python), str(STEP_GATE), str(out), str(permits), *self.command], (out, permits))
        os.close(out)
        os.close(permits)
        os.set_blocking(self._steps, False)
        self._prepare()
        self._await_step()

    def _prepare(self) -> None:
        """Whatever the program needs before it trains."""

    def _run_steps(self, steps: int) -> float:
        start = time.perf_counter()
        os.write(self._permits, b"." * steps)
        for _ in range(steps):
            self._await_step()
        return (time.perf_counter() - start) / steps

    def _await_step(self) -> None:
        def step_reported() -> bool:
            try:
                return bool(os.read(self._steps, 1))
            except BlockingIOError:
                time.sleep(0.0005)
                return False

        self._wait(step_reported)
