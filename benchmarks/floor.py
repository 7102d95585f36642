"""A lower bound of a step's time: its FLOPs at the rate of the machine's matrix product.

    python benchmarks/floor.py DEVICE PRECISION ...    print the rates as a line of JSON

torch's FlopCounterMode counts the convolutions and matrix products of the UNet and the text encoders, forward and backward,
with gradients for the context only, on the meta device.
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


def step_flops(checkpoint: Checkpoint, resolution: int, batch_size: int) -> int:
    """FLOPs of a step in the UNet and the text encoders."""
    assert checkpoint.vae
    vae: Any = checkpoint.vae.module.config
    latent_side = resolution // 2 ** (len(vae.block_out_channels) - 1)
    unet: Any = checkpoint.unet.module.requires_grad_(False)
    total = 0
    for network in checkpoint.text_encoders.values():
        text: Any = network.module.requires_grad_(False)
        text.get_input_embeddings().weight.requires_grad_(True)
        prompts = torch.zeros(batch_size, checkpoint.prompt_length, dtype=torch.long, device="meta")
        total += _count_flops(lambda text, prompts: text(prompts).last_hidden_state.sum().backward(), text, prompts)
    with torch.device("meta"):
        noisy, t = torch.empty(batch_size, vae.latent_channels, latent_side, latent_side), torch.zeros(batch_size)
        context = torch.empty(batch_size, checkpoint.prompt_length, sum(checkpoint.widths), requires_grad=True)
        added_cond = {}
        if checkpoint.family.pooled_encoder:
            pooled_config: Any = checkpoint.text_encoders[checkpoint.family.pooled_encoder].module.config
            width = pooled_config.projection_dim
            added_cond = {"text_embeds": torch.empty(batch_size, width), "time_ids": torch.empty(batch_size, 6)}
    return total + _count_flops(
        lambda: unet(noisy, t, encoder_hidden_states=context, added_cond_kwargs=added_cond).sample.sum().backward()
    )


def _count_flops(work: Callable[..., object], *arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work(*arguments)
    return int(counter.get_total_flops())


def matmul_flops_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large matrix product, the most that the machine can do."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(5))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    device = torch.device(sys.argv[1])
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "rates": {precision: matmul_flops_per_s(DTYPES[precision], device) for precision in sys.argv[2:]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
