"""A small Stable Diffusion 1 of random weights as a diffusers folder, written by diffusers and transformers themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


class Folder(NamedTuple):
    path: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel


def write_folder(
    path: Path,
    vocabulary: int = 49408,
    dtype: torch.dtype = torch.float32,
    scheduler: Any = None,
    safe_serialization: bool = True,
    **saving: Any,
) -> Folder:
    """Write the folder; returns it with the networks that are in it, in fp32.

    `scheduler`: changes to the scheduler's settings. `safe_serialization` and `saving` (`variant`, `max_shard_size`) are
    save_pretrained's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="quick_gelu",
            )
        )
    for name, network in {"unet": unet, "vae": vae, "text_encoder": text}.items():
        network.requires_grad_(False).eval().to(dtype)
        network.save_pretrained(path / name, safe_serialization=safe_serialization, **saving)
        network.float()
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, **(scheduler or {})
    ).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return Folder(path, unet, vae, text)
