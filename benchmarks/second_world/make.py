"""Train the second world's model: ``python -m benchmarks.second_world.make WORK_FOLDER``; see `lib_ti.practice.make`."""

from pathlib import Path

from benchmarks.second_world.world import SECOND_WORLD
from lib_ti.practice.make import run

FOLDER = Path(__file__).parent / "model"

if __name__ == "__main__":
    run(SECOND_WORLD, FOLDER, FOLDER / "concepts")
