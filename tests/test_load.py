"""Large and long trainings: what they take stays as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from reference.trainings import settings_for

from lib_ti.runs.execute import create_run, execute_run
from lib_ti.training.preflight.preflight import preflight

ROOT = Path(__file__).resolve().parents[1]
PROC = Path("/proc/self")
linux_only = pytest.mark.skipif(not (PROC / "statm").exists(), reason="memory and handles are read from /proc")
TRAIN = """
import resource, sys
from lib_ti.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def resident_mb() -> float:
    return int((PROC / "statm").read_text().split()[1]) * 4096 / 2**20


def open_handles() -> int:
    return len(list((PROC / "fd").iterdir()))


@linux_only
@pytest.mark.faults("a very long training")
def test_memory_handles_and_files_of_a_long_training_stay_flat(tiny_checkpoint, pictures, tmp_path, fault_count, note):
    steps = fault_count(150, 6000)
    settings = settings_for(
        tiny_checkpoint, pictures, tmp_path,
        steps=str(steps), preview_every="0", validate_every="0", snapshot_every=str(steps // 4), early_stop=False,
    )  # fmt: skip
    folder = create_run(preflight(settings))
    measured = {}

    def measure(event):
        if event.kind == "step" and event.data["step"] in (steps // 3, steps):
            measured[event.data["step"]] = resident_mb(), open_handles()

    assert execute_run(folder, measure)
    (early, handles), (late, handles_at_end) = measured.values()
    note(f"{steps} steps: {late - early:+.1f} MB, {handles_at_end - handles:+d} handles")
    assert handles_at_end == handles
    assert late - early < 16
    assert not list(folder.path.rglob("*.part"))


@linux_only
@pytest.mark.faults("many large pictures")
def test_memory_does_not_grow_with_the_number_of_pictures(tiny_checkpoint, tmp_path, fault_count, note):
    def peak_mb(count: int) -> int:
        folder = tmp_path / f"{count} pictures"
        folder.mkdir()
        for i in range(count):
            Image.new("RGB", (4000, 3000), (i % 256, i // 256, 80)).save(folder / f"{i}.jpg")
        run = subprocess.run(
            [sys.executable, "-c", TRAIN, "train", "--model", str(tiny_checkpoint), "--images", str(folder),
             "--name", "my-mug", "--out", str(tmp_path / f"out {count}"), "--runs-dir", str(tmp_path / f"runs {count}"),
             "--steps", "1", "--preview-every", "0", "--validate-every", "0", "--init-text", "mug"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        return int(run.stdout.rsplit("peak ", 1)[1])

    few, many = 2, fault_count(5, 150)
    growth = peak_mb(many) - peak_mb(few)
    note(f"{many} of 12 megapixels take {growth:+d} MB more than {few}")
    assert growth < 36, "less than one of them takes when it is decoded"
