"""Measure the time from the command to the first step, and the fraction of a default run that previews take.

    python benchmarks/start.py --model CHECKPOINT [--rounds 3] [any option of `python -m lib_ti train`]

The lower bound is a process that imports torch and the classes of diffusers and transformers that a training needs, and reads
the checkpoint from the page cache. It is compared with `python -m lib_ti train` from its start to its first "step" event,
without encoding the images; on a CPU, where a step takes seconds, without the first step too. Both are run in turns; the
output has median (min–max). Previews are timed twice in a real run at its own resolution, and extrapolated to the default
number of steps and previews.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import peer_programs
from own_program import OwnProgram
from program import ROOT

sys.path.insert(0, str(ROOT))

from lib_ti.settings.train_settings import DEFAULTS

LOWER_BOUND_PROGRAM = """
import sys, time
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
block = bytearray(1 << 24)
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.readinto(block):
        pass
print(time.time())
"""
NUM_IMAGES, SIDE = 3, 512


def lower_bound(checkpoint: Path) -> float:
    """Seconds to import the libraries and read the checkpoint."""
    start = time.time()
    result = subprocess.run(
        [sys.executable, "-c", LOWER_BOUND_PROGRAM, str(checkpoint)], capture_output=True, text=True, check=True
    )
    return float(result.stdout.split()[-1]) - start


def run_until(
    checkpoint: Path, folder: Path, extra: Sequence[str], until: Callable[[dict[str, Any]], bool]
) -> list[Any]:
    """The events of a training up to the first for which `until` holds; the first is "started", when it was launched."""
    options = {
        "model": str(checkpoint), "images": str(folder / "pictures"), "name": peer_programs.TOKEN,
        "out": str(folder / "embeddings"), "runs-dir": str(folder / "runs"),
    }  # fmt: skip
    program = OwnProgram(Path(sys.executable), options, extra)
    events: list[Any] = [{"kind": "started", "time": time.time()}]
    try:
        program.launch()
        while not until(events[-1]):
            events.append(program.next_event())
    finally:
        program.stop()
    return events


def first_step(checkpoint: Path, folder: Path, extra: Sequence[str]) -> tuple[float, float]:
    """Seconds to the end of the first step without encoding, and seconds of that step."""
    events = run_until(checkpoint, folder, [*extra, "--preview-every", "0"], lambda event: event["kind"] == "step")
    encoding_times = [event["time"] for event in events if event["kind"] == "encoding"]
    encoding = (encoding_times[-1] - encoding_times[0]) * NUM_IMAGES / (NUM_IMAGES - 1)
    return events[-1]["time"] - events[0]["time"] - encoding, 1 / events[-1]["images_per_s"]


def previews(checkpoint: Path, folder: Path, extra: Sequence[str]) -> None:
    """Print the fraction of a default run that previews take."""
    preview_rounds = 2
    events = run_until(
        checkpoint, folder, [*extra, "--preview-every", "2", "--steps", "4"],
        lambda event: event["kind"] == "step" and event["step"] == 3,
    )  # fmt: skip
    durations = [(after["kind"], after["time"] - before["time"]) for before, after in pairwise(events)]
    preview_times = [seconds for kind, seconds in durations if kind == "preview"]
    step = statistics.median([seconds for kind, seconds in durations if kind == "step"][1:])
    per_round = len(preview_times) // preview_rounds
    steps, every = DEFAULTS["steps"], DEFAULTS["preview_every"]
    total = (1 + -(-steps // every)) * per_round * statistics.median(preview_times)
    print(
        f"previews: {statistics.median(preview_times):.2f} s each, a step {step:.3f} s; {steps} steps with {per_round} each "
        f"{every} steps and at the start: {total / (total + steps * step):.0%} of the time (target ≤ 30%)"
    )


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.1f} s ({min(times):.1f}–{max(times):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, extra = parser.parse_known_args()
    checkpoint = arguments.model.absolute()
    lower_bounds, starts, steps = [], [], []
    for _ in range(arguments.rounds):
        lower_bounds.append(lower_bound(checkpoint))
        with tempfile.TemporaryDirectory() as folder:
            peer_programs.write_noise_images(Path(folder) / "pictures", NUM_IMAGES, SIDE)
            total, step = first_step(checkpoint, Path(folder), extra)
        starts.append(total)
        steps.append(step)
    import torch

    without_step = starts if torch.cuda.is_available() else [a - b for a, b in zip(starts, steps, strict=True)]
    print(
        f"imports and the file: {spread(lower_bounds)}; "
        f"the command to the first step: {spread(starts)}, itself {spread(steps)}"
    )
    ratio = statistics.median(without_step) / statistics.median(lower_bounds)
    print(f"start: {spread(without_step)}, {ratio:.2f} times the imports and the file (target ≤ 2)")
    with tempfile.TemporaryDirectory() as folder:
        peer_programs.write_noise_images(Path(folder) / "pictures", NUM_IMAGES, SIDE)
        previews(checkpoint, Path(folder), extra)


if __name__ == "__main__":
    main()
