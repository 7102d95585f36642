"""Check that a training's time is linear in steps and images, and its memory constant. Prints two tables.

    python benchmarks/growth.py [--steps 20 200 2000] [--pictures 10 100 1000]

Each row is a process of its own with the tests' tiny model, so that the cost of a step does not hide what grows. "ms/step",
"ms/picture" (both without the start-up) and "peak MB" (of the process, without mapped files) should be the same in all rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from peer_programs import write_noise_images
from program import ROOT
from reference.checkpoints import SIZES, write_checkpoint

SIDE = 96  # pixels of the images


def train(model: Path, images: Path, steps: int, folder: Path) -> list[dict[str, Any]]:
    """The events of a training in a process of its own."""
    folder.mkdir()
    flags = {
        "--model": model, "--images": images, "--name": "my-mug", "--out": folder / "out", "--runs-dir": folder / "runs",
        "--steps": steps, "--preview-every": 0, "--snapshot-every": 0, "--precision": "fp32",
    }  # fmt: skip
    arguments = [str(argument) for flag in flags.items() for argument in flag]
    result = subprocess.run(
        [sys.executable, "-m", "lib_ti", "train", *arguments, "--json", "--overwrite"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return [json.loads(line) for line in result.stdout.splitlines()]


def row(count: int, events: list[dict[str, Any]], kind: str) -> str:
    """A row of the table; `kind`: of the events to time, one for each of `count` steps or images."""
    times = [event["time"] for event in events if event["kind"] == kind]
    steps = [event for event in events if event["kind"] == "step"]
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    peaks = [event["memory_mb"] or float("nan") for event in steps]
    return f"{count:>9}{1000 * seconds:>14.2f}{peaks[0]:>16.0f}{peaks[-1]:>12.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--pictures", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_checkpoint(folder / "tiny.safetensors", SIZES["small"])
        ten_images = folder / "ten-images"
        write_noise_images(ten_images, 10, SIDE)
        print(f"{'steps':>9}{'ms/step':>14}{'MB at step 1':>16}{'peak MB':>12}")
        for steps in arguments.steps:
            print(row(steps, train(model, ten_images, steps, folder / f"steps-{steps}"), "step"), flush=True)
        print(f"\n{'pictures':>9}{'ms/picture':>14}{'MB at step 1':>16}{'peak MB':>12}")
        for count in arguments.pictures:
            images = folder / f"pictures-{count}"
            write_noise_images(images, count, SIDE)
            print(row(count, train(model, images, 20, folder / f"run-{count}"), "encoding"), flush=True)


if __name__ == "__main__":
    main()
