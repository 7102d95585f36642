"""The benchmarks' stopwatch, on a program whose steps are known."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from programs import Failed, Stamped

STEPS = """
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
    script.write_text(STEPS)
    program = Stamped("toy", Path(sys.executable), [str(script)], tmp_path, {})
    yield program
    program.stop()


def test_a_program_steps_in_its_turn_alone_and_is_timed(program: Stamped) -> None:
    program.start(on_card=False)
    time.sleep(1)
    assert 0.2 <= program.turn(3) < 1.0
    time.sleep(0.5)
    assert program._said.split().count("step") == 3  # the fourth has ended, and waits inside the optimizer
    assert program.peak_mb > 10


def test_one_that_fails_is_quoted(program: Stamped) -> None:
    Path(program.command[0]).write_text("raise ValueError('no such picture')")
    with pytest.raises(Failed, match="ValueError: no such picture"):
        program.start(on_card=False)
