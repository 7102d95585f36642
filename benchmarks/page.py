"""What the tab costs: the page's weight, a poll's time on the server, and a training's way from the click to its first step.

    python benchmarks/page.py [--polls 50] [--steps 20000]

Starts `python -m lib_ti ui` on a folder of its own, with a made-up run of so many steps in it. Times are medians over HTTP on
this machine, gradio's own part included; an action of gradio's that does nothing is asked in turn with ours for comparison.
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

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib_ti.runs.events import EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import parse

ROOT = Path(__file__).resolve().parent.parent
PRACTICE = ROOT / "lib_ti" / "practice"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--polls", type=int, default=50)
    options.add_argument("--steps", type=int, default=20_000)
    chosen = options.parse_args()
    weigh()
    with tempfile.TemporaryDirectory() as folder:
        run = long_run(Path(folder), chosen.steps)
        server, url = start(Path(folder))
        try:
            time_polls(url, run, chosen.polls, server.pid)
            time_start(url, Path(folder))
        finally:
            server.terminate()
            server.wait()


def weigh() -> None:
    """Bytes that the page loads for us, as they are and as a web server would compress them."""
    data = [path.read_bytes() for path in (*(ROOT / "javascript").glob("*.js"), ROOT / "style.css")]
    packed = sum(len(gzip.compress(blob)) for blob in data)
    print(
        f"scripts and style: {sum(map(len, data)) / 1024:.0f} kB in {len(data)} files, {packed / 1024:.0f} kB compressed"
    )


def long_run(folder: Path, steps: int) -> str:
    """A run with that many steps in its events."""
    settings, _ = parse({
        "images": str(PRACTICE / "concepts" / "coin"), "name": "long", "model": str(PRACTICE / "model" / "practice.safetensors"),
        "out": str(folder / "embeddings"), "runs_dir": str(folder / "textual_inversion"), "steps": str(steps),
    })  # fmt: skip
    made = RunFolder.create(settings, {})
    log = EventLog(made.events)
    line = log.append(
        "step", step=1, steps=steps, loss=0.1, smoothed_loss=0.1, learning_rate=0.005, norm=0.5, similarity=0.9,
        images_per_s=5.0, seconds_left=10.0, memory_mb=500.0,
    ).to_json()  # fmt: skip
    made.events.write_text("".join(line.replace('"step": 1,', f'"step": {i},') + "\n" for i in range(1, steps + 1)))
    return f"{made.path.parent.name}/{made.path.name}"


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The standalone host, and its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "lib_ti", "ui", "--no-browser", "--port", "0", "--data-dir", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert server.stdout
    for line in server.stdout:
        if found := re.search(r"http://\S+", line):
            return server, found[0]
    raise SystemExit("the standalone host did not start")


def call(url: str, do: str, **more: Any) -> Any:
    body = json.dumps({"data": [json.dumps({"do": do, **more})]}).encode()
    request = urllib.request.Request(f"{url}run/tinv", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.loads(json.load(reply)["data"][0])


def time_polls(url: str, run: str, polls: int, server: int) -> None:
    """The first look at a long run, polls of it once it is known, and an unknown action: what any call costs."""
    began, after, calls = time.perf_counter(), 0, 0
    while True:
        answer = call(url, "poll", run=run, after=after)["run"]
        after, calls = answer["after"], calls + 1
        if not answer["more"]:
            break
    print(f"first look at {answer['step']} steps: {(time.perf_counter() - began) * 1000:.0f} ms in {calls} calls")
    ours, nothing = [], []
    for _ in range(polls):
        for times, do, more in ((ours, "poll", {"run": run, "after": after}), (nothing, "nothing", {})):
            began = time.perf_counter()
            call(url, do, **more)
            times.append(time.perf_counter() - began)
    poll, floor = statistics.median(ours), statistics.median(nothing)
    print(f"a poll: {poll * 1000:.1f} ms, {poll / floor:.2f} times a call that does nothing ({floor * 1000:.1f} ms)")
    if (before := processor_s(server)) is not None:
        for _ in range(4 * polls):
            call(url, "poll", run=run, after=after)
        spent = (processor_s(server) or before) - before
        print(f"a poll: {spent / (4 * polls) * 1000:.1f} ms of the server's processor time (target ≤ 10 ms)")


def processor_s(process: int) -> float | None:
    """Seconds of processor time that a process has used; None where the system does not tell it in Linux's way."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def time_start(url: str, folder: Path) -> None:
    """From the click on Train to the first step, beside the same training on the command line."""
    form = {"name": "quick", "steps": "3", "preview_every": "0", "init_text": "object"}
    draft = "0" * 32
    call(url, "example", draft=draft)
    began = time.perf_counter()
    run = call(url, "train", form=form, draft=draft, token="1")["run"]
    accepted = time.perf_counter() - began
    while call(url, "poll", run=run, after=0)["run"]["step"] == 0:
        time.sleep(0.02)
    click = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lib_ti", "train", "--model", PRACTICE / "model" / "practice.safetensors", "--images",
         PRACTICE / "concepts" / "coin", "--name", "direct", "--out", folder / "words", "--runs-dir", folder / "runs",
         "--steps", "1", "--preview-every", "0", "--json"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    direct = time.perf_counter() - began
    print(
        f"click to first step: {click:.1f} s ({accepted:.1f} s until accepted); command line, one step: {direct:.1f} s"
    )


if __name__ == "__main__":
    main()
