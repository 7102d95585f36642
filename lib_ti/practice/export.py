"""Networks as a checkpoint in the original layout: the way back through `model.layout`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.embedding.write import safetensors_bytes
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint.families import SD1
from lib_ti.model.checkpoint.yaml_config import ModelConfig


def original_layout(
    unet: torch.nn.Module, vae: torch.nn.Module, text: torch.nn.Module, config: ModelConfig, dtype: torch.dtype
) -> bytes:
    """A `.safetensors` checkpoint of diffusers' and transformers' modules."""
    tensors: dict[str, torch.Tensor] = {}

    def add(prefix: str, names: Mapping[str, str], module: torch.nn.Module) -> None:
        for ours, value in module.state_dict().items():
            tensors[prefix + names[ours]] = _as_the_original(names[ours], value).to(dtype)

    add(ldm_keys.UNET, ldm_keys.unet_names(unet.state_dict(), config.unet), unet)
    add(ldm_keys.VAE, ldm_keys.vae_names(vae.state_dict(), config.vae), vae)
    add(SD1.encoders[0].prefix, {name: name for name in text.state_dict()}, text)
    return safetensors_bytes(tensors, {})


def _as_the_original(name: str, value: torch.Tensor) -> torch.Tensor:
    """A VAE's attention was made of 1×1 convolutions."""
    in_attention = ".attn_1." in name and name.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"))
    return value[:, :, None, None] if in_attention else value
