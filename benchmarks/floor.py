"""The least that a step can take: its operations, and how many of them a second the machine's matrix product does.

    python benchmarks/floor.py DEVICE PRECISION ...    the rates alone, as a line of JSON

Counted are the convolutions and matrix products, forward and backward, of the UNet and the text encoders with nothing but the
context's gradient asked for, as torch's FlopCounterMode sees them. They are counted without computing them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.speed.device import DTYPES


def operations(checkpoint: Checkpoint, resolution: int, batch: int) -> int:
    """Floating-point operations of a step: of the networks that train, on torch's meta device."""
    assert checkpoint.vae
    vae: Any = checkpoint.vae.module.config
    side = resolution // 2 ** (len(vae.block_out_channels) - 1)
    unet: Any = checkpoint.unet.module.requires_grad_(False)
    total = 0
    for part in checkpoint.text.values():
        text: Any = part.module.requires_grad_(False)
        text.get_input_embeddings().weight.requires_grad_(True)
        prompts = torch.zeros(batch, checkpoint.prompt_length, dtype=torch.long, device="meta")
        total += _counted(lambda text, prompts: text(prompts).last_hidden_state.sum().backward(), text, prompts)
    with torch.device("meta"):
        noisy, t = torch.empty(batch, vae.latent_channels, side, side), torch.zeros(batch)
        context = torch.empty(batch, checkpoint.prompt_length, sum(checkpoint.widths), requires_grad=True)
        told = {}
        if checkpoint.family.pooled:
            summary: Any = checkpoint.text[checkpoint.family.pooled].module.config
            width = summary.projection_dim
            told = {"text_embeds": torch.empty(batch, width), "time_ids": torch.empty(batch, 6)}
    return total + _counted(
        lambda: unet(noisy, t, encoder_hidden_states=context, added_cond_kwargs=told).sample.sum().backward()
    )


def _counted(work: Callable[..., object], *given: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work(*given)
    return int(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large matrix product: what the machine can do at best."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(5))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    device = torch.device(sys.argv[1])
    found = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "rates": {precision: matrix_rate(DTYPES[precision], device) for precision in sys.argv[2:]},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
