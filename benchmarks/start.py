"""From the command to the first step, and what share of a default run its previews are.

    python benchmarks/start.py --model CHECKPOINT [--rounds 3] [any option of `python -m lib_ti train`]

"floor" is a process that imports torch and the classes of diffusers and transformers that a training needs, and reads the
checkpoint, from the page cache: no trainer can start sooner. Ours is `python -m lib_ti train`, from its start to its first
"step" event, without the time that the pictures took to be encoded; on a CPU, where one step takes seconds, without the first
step too. The two take turns; medians, least and most are shown. Previews: two of them in a real run, at the run's own
resolution, reckoned up to the default number of steps and previews.
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

import contestants
from programs import ROOT
from trainer import Ours

sys.path.insert(0, str(ROOT))

from lib_ti.settings.train_settings import DEFAULTS

FLOOR = """
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
PICTURES, SIDE = 3, 512


def floor(checkpoint: Path) -> float:
    began = time.time()
    told = subprocess.run([sys.executable, "-c", FLOOR, str(checkpoint)], capture_output=True, text=True, check=True)
    return float(told.stdout.split()[-1]) - began


def events(checkpoint: Path, folder: Path, extra: Sequence[str], until: Callable[[dict[str, Any]], bool]) -> list[Any]:
    """What a training of ours reports, from a "started" of our own to the first event for which `until` holds."""
    options = {
        "model": str(checkpoint), "images": str(folder / "pictures"), "name": contestants.WORD,
        "out": str(folder / "embeddings"), "runs-dir": str(folder / "runs"),
    }  # fmt: skip
    program = Ours(Path(sys.executable), options, extra)
    found: list[Any] = [{"kind": "started", "time": time.time()}]
    try:
        program.launch()
        while not until(found[-1]):
            found.append(program.next_event())
    finally:
        program.stop()
    return found


def first_step(checkpoint: Path, folder: Path, extra: Sequence[str]) -> tuple[float, float]:
    """Seconds to the first step without encoding, and those of the step itself."""
    seen = events(checkpoint, folder, [*extra, "--preview-every", "0"], lambda event: event["kind"] == "step")
    encoded = [event["time"] for event in seen if event["kind"] == "encoding"]
    encoding = (encoded[-1] - encoded[0]) * PICTURES / (PICTURES - 1)
    return seen[-1]["time"] - seen[0]["time"] - encoding, 1 / seen[-1]["images_per_s"]


def previews(checkpoint: Path, folder: Path, extra: Sequence[str]) -> None:
    """Print what they take of a default run."""
    rounds = 2
    seen = events(
        checkpoint, folder, [*extra, "--preview-every", "2", "--steps", "4"],
        lambda event: event["kind"] == "step" and event["step"] == 3,
    )  # fmt: skip
    took = [(after["kind"], after["time"] - before["time"]) for before, after in pairwise(seen)]
    made = [seconds for kind, seconds in took if kind == "preview"]
    step = statistics.median([seconds for kind, seconds in took if kind == "step"][1:])
    each = len(made) // rounds
    steps, every = DEFAULTS["steps"], DEFAULTS["preview_every"]
    total = (1 + -(-steps // every)) * each * statistics.median(made)
    print(
        f"previews: {statistics.median(made):.2f} s each, a step {step:.3f} s; {steps} steps with {each} each {every} steps "
        f"and at the start: {total / (total + steps * step):.0%} of the time (target ≤ 30%)"
    )


def shown(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.1f} s ({min(times):.1f}–{max(times):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    chosen, extra = parser.parse_known_args()
    checkpoint = chosen.model.absolute()
    least, ours, steps = [], [], []
    for _ in range(chosen.rounds):
        least.append(floor(checkpoint))
        with tempfile.TemporaryDirectory() as folder:
            contestants.made_up_pictures(Path(folder) / "pictures", PICTURES, SIDE)
            total, step = first_step(checkpoint, Path(folder), extra)
        ours.append(total)
        steps.append(step)
    import torch

    without = ours if torch.cuda.is_available() else [a - b for a, b in zip(ours, steps, strict=True)]
    print(f"imports and the file: {shown(least)}; the command to the first step: {shown(ours)}, itself {shown(steps)}")
    ratio = statistics.median(without) / statistics.median(least)
    print(f"start: {shown(without)}, {ratio:.2f} times the imports and the file (target ≤ 2)")
    with tempfile.TemporaryDirectory() as folder:
        contestants.made_up_pictures(Path(folder) / "pictures", PICTURES, SIDE)
        previews(checkpoint, Path(folder), extra)


if __name__ == "__main__":
    main()
