"""Device measurements, and workarounds for faults of torch releases."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib_ti.model.speed import timing
from lib_ti.model.speed.device import unused_gpu

ROOT = Path(__file__).resolve().parent.parent
LEARNING = """
import torch
from lib_ti.model.speed.device import disable_broken_flash_attention

disable_broken_flash_attention(torch.device("cpu"), "bf16")
for _ in range(20):
    q, k, v = (torch.randn(1, 12, 77, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    torch.nn.functional.scaled_dot_product_attention(q, k, v).float().sum().backward()
print("alive")
"""


@pytest.mark.smoke
def test_attention_backward_in_bf16_on_a_cpu_does_not_crash():
    """In a process of its own: a torch that writes where it must not ends it."""
    ended = subprocess.run([sys.executable, "-c", LEARNING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "alive"), ended.stderr


def test_speedup_alternates_and_skips_the_warm_up(monkeypatch):
    now, order = [0.0], []

    def way(name, *seconds):
        coming = iter(seconds)

        def work():
            order.append(name)
            now[0] += next(coming)

        return work

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing.speedup(way("old", 1, 8, 6, 7, 9, 9), way("new", 1, 5, 2, 9, 9, 9)) == 3, "the first does not count"
    assert order == ["old", "new"] * 6


@pytest.mark.parametrize(
    ("cuda", "mps", "gpu"), [(False, True, "this Mac's GPU (MPS)"), (True, True, ""), (False, False, "")]
)
def test_a_gpu_that_is_not_used_is_named(monkeypatch, cuda, mps, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert unused_gpu() == gpu
