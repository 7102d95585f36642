"""What is done about a device's faults."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEARNING = """
import torch
from lib_ti.training.device import mend_attention

mend_attention(torch.device("cpu"), "bf16")
for _ in range(20):
    q, k, v = (torch.randn(1, 12, 77, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    torch.nn.functional.scaled_dot_product_attention(q, k, v).float().sum().backward()
print("alive")
"""


@pytest.mark.smoke
def test_attention_can_be_learned_through_in_bf16_on_a_cpu():
    """In a process of its own: a torch that writes where it must not ends it."""
    ended = subprocess.run([sys.executable, "-c", LEARNING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "alive"), ended.stderr
