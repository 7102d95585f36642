"""Measure the tab: size of its scripts, time of a poll, and time from the click on Train to the first step.

    python benchmarks/page.py [--polls 50] [--steps 20000]

Starts `python -m lib_ti ui` on a new folder that contains a synthetic run of `--steps` steps. Times are medians of local HTTP
requests, gradio included; they alternate with calls of an unknown action, the baseline.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from program import ROOT

sys.path.insert(0, str(ROOT))

from lib_ti.runs.events import EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.parsing import parse

PRACTICE = ROOT / "lib_ti" / "practice"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--polls", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    print_asset_sizes()
    with tempfile.TemporaryDirectory() as folder:
        run = write_long_run(Path(folder), arguments.steps)
        server, url = start_server(Path(folder))
        try:
            time_polls(url, run, arguments.polls, server.pid)
            time_first_step(url, Path(folder))
        finally:
            server.terminate()
            server.wait()


def print_asset_sizes() -> None:
    """Print the bytes of scripts and style, uncompressed and gzipped."""
    data = [path.read_bytes() for path in (*(ROOT / "javascript").glob("*.js"), ROOT / "style.css")]
    compressed = sum(len(gzip.compress(blob)) for blob in data)
    print(
        f"scripts and style: {sum(map(len, data)) / 1024:.0f} kB in {len(data)} files, {compressed / 1024:.0f} kB compressed"
    )


def write_long_run(folder: Path, steps: int) -> str:
    """Write a run with that many step events; returns its id."""
    settings, _ = parse({
        "images": str(PRACTICE / "concepts" / "coin"), "name": "long", "model": str(PRACTICE / "model" / "practice.safetensors"),
        "out": str(folder / "embeddings"), "runs_dir": str(folder / "textual_inversion"), "steps": str(steps),
    })  # fmt: skip
    run_folder = RunFolder.create(settings, {})
    log = EventLog(run_folder.events)
    line = log.append(
        "step", step=1, steps=steps, loss=0.1, smoothed_loss=0.1, learning_rate=0.005, norm=0.5, similarity=0.9,
        images_per_s=5.0, seconds_left=10.0, memory_mb=500.0,
    ).to_json()  # fmt: skip
    run_folder.events.write_text(
        "".join(line.replace('"step": 1,', f'"step": {i},') + "\n" for i in range(1, steps + 1))
    )
    return f"{run_folder.path.parent.name}/{run_folder.path.name}"


def start_server(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the standalone host; its process and URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "lib_ti", "ui", "--no-browser", "--port", "0", "--data-dir", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert server.stdout
    for line in server.stdout:
        if match := re.search(r"http://\S+", line):
            return server, match[0]
    raise SystemExit("the standalone host did not start")


def call(url: str, action: str, **parameters: Any) -> Any:
    """Call an action of the page."""
    body = json.dumps({"data": [json.dumps({"do": action, **parameters})]}).encode()
    request = urllib.request.Request(f"{url}run/tinv", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.loads(json.load(reply)["data"][0])


def time_polls(url: str, run: str, polls: int, server: int) -> None:
    """Time the first poll of a long run, later polls, and an unknown action."""
    start, after, calls = time.perf_counter(), 0, 0
    while True:
        reply = call(url, "poll", run=run, after=after)["run"]
        after, calls = reply["after"], calls + 1
        if not reply["more"]:
            break
    print(f"first look at {reply['step']} steps: {(time.perf_counter() - start) * 1000:.0f} ms in {calls} calls")
    poll_times, baseline_times = [], []
    for _ in range(polls):
        for times, action, parameters in (
            (poll_times, "poll", {"run": run, "after": after}),
            (baseline_times, "nothing", {}),
        ):
            start = time.perf_counter()
            call(url, action, **parameters)
            times.append(time.perf_counter() - start)
    poll, baseline = statistics.median(poll_times), statistics.median(baseline_times)
    print(
        f"a poll: {poll * 1000:.1f} ms, {poll / baseline:.2f} times a call that does nothing ({baseline * 1000:.1f} ms)"
    )
    if (before := cpu_seconds(server)) is not None:
        for _ in range(4 * polls):
            call(url, "poll", run=run, after=after)
        used = (cpu_seconds(server) or before) - before
        print(f"a poll: {used / (4 * polls) * 1000:.1f} ms of the server's processor time (target ≤ 10 ms)")


def cpu_seconds(process: int) -> float | None:
    """CPU seconds that a process has used; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def time_first_step(url: str, folder: Path) -> None:
    """Time a training from the click on Train to the first step, and the same training on the command line."""
    form = {"name": "quick", "steps": "3", "preview_every": "0", "init_text": "object"}
    draft = "0" * 32
    call(url, "example", draft=draft)
    start = time.perf_counter()
    run = call(url, "train", form=form, draft=draft, token="1")["run"]
    accepted_s = time.perf_counter() - start
    while call(url, "poll", run=run, after=0)["run"]["step"] == 0:
        time.sleep(0.02)
    first_step_s = time.perf_counter() - start
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lib_ti", "train", "--model", PRACTICE / "model" / "practice.safetensors", "--images",
         PRACTICE / "concepts" / "coin", "--name", "direct", "--out", folder / "words", "--runs-dir", folder / "runs",
         "--steps", "1", "--preview-every", "0", "--json"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    command_line_s = time.perf_counter() - start
    print(
        f"click to first step: {first_step_s:.1f} s ({accepted_s:.1f} s until accepted); "
        f"command line, one step: {command_line_s:.1f} s"
    )


if __name__ == "__main__":
    main()
