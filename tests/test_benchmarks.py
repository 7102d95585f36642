"""The benchmarks time a program's steps, here of a program whose steps take a known time."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from program import GatedProgram, ProgramFailed

TRAINING_SCRIPT = """
import sys, time, torch
optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
while True:
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    time.sleep(0.2)
    optimizer.step()
    print("step", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(TRAINING_SCRIPT)
    program = GatedProgram("toy", Path(sys.executable), [str(script)], tmp_path, {})
    yield program
    program.stop()


def test_gated_program_steps_only_when_permitted_and_is_timed(program: GatedProgram) -> None:
    program.start(on_gpu=False)
    time.sleep(1)
    assert 0.2 <= program.run_steps(3) < 1.0
    time.sleep(0.5)
    assert program._output.split().count("step") == 3  # the fourth step has ended and waits in the optimizer's hook
    assert program.peak_mb > 10


def test_failed_program_is_quoted(program: GatedProgram) -> None:
    Path(program.command[0]).write_text("raise ValueError('no such picture')")
    with pytest.raises(ProgramFailed, match="ValueError: no such picture"):
        program.start(on_gpu=False)
