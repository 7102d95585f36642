"""Whether a training's time is linear in its steps and pictures, and its memory flat in both. Two tables.

    python benchmarks/growth.py [--steps 20 200 2000] [--pictures 10 100 1000]

Each line is a process of its own on the little model of the tests, so that what grows is not hidden by what a step costs.
"ms/step" and "ms/picture" are of that line alone, without the start; they should be the same in all lines of a table, and
so should "peak MB", the most memory that the process ever held beside what is mapped from files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

import numpy as np
from PIL import Image
from reference.checkpoints import SIZES, write_checkpoint

ROOT = Path(__file__).parent.parent


def draw(folder: Path, count: int) -> Path:
    """So many pictures of noise."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(dice.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{number:04d}.png")
    return folder


def train(model: Path, pictures: Path, steps: int, folder: Path) -> list[dict[str, Any]]:
    """The events of a training in a process of its own."""
    folder.mkdir()
    flags = {
        "--model": model, "--images": pictures, "--name": "my-mug", "--out": folder / "out", "--runs-dir": folder / "runs",
        "--steps": steps, "--preview-every": 0, "--snapshot-every": 0, "--precision": "fp32",
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    said = subprocess.run(
        [sys.executable, "-m", "lib_ti", "train", *words, "--json", "--overwrite"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise SystemExit(said.stderr)
    return [json.loads(line) for line in said.stdout.splitlines()]


def line(count: int, events: list[dict[str, Any]], kind: str) -> str:
    """`kind`: whose events are timed, one for each of `count` steps or pictures."""
    timed = [event["time"] for event in events if event["kind"] == kind]
    steps = [event for event in events if event["kind"] == "step"]
    each = (timed[-1] - timed[0]) / (len(timed) - 1)
    peaks = [event["memory_mb"] or float("nan") for event in steps]
    return f"{count:>9}{1000 * each:>14.2f}{peaks[0]:>16.0f}{peaks[-1]:>12.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--pictures", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_checkpoint(folder / "tiny.safetensors", SIZES["small"])
        few = draw(folder / "few", 10)
        print(f"{'steps':>9}{'ms/step':>14}{'MB at step 1':>16}{'peak MB':>12}")
        for steps in arguments.steps:
            print(line(steps, train(model, few, steps, folder / f"steps-{steps}"), "step"), flush=True)
        print(f"\n{'pictures':>9}{'ms/picture':>14}{'MB at step 1':>16}{'peak MB':>12}")
        for count in arguments.pictures:
            pictures = draw(folder / f"pictures-{count}", count)
            print(line(count, train(model, pictures, 20, folder / f"run-{count}"), "encoding"), flush=True)


if __name__ == "__main__":
    main()
