"""Write networks as a checkpoint in the LDM layout: the inverse of `model.checkpoint.ldm`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint.families import SD1
from lib_ti.model.checkpoint.yaml_config import ModelConfig


def ldm_checkpoint(
    unet: torch.nn.Module, vae: torch.nn.Module, text: torch.nn.Module, config: ModelConfig, dtype: torch.dtype
) -> bytes:
    """A `.safetensors` checkpoint from diffusers' UNet and VAE and transformers' text encoder."""
    tensors: dict[str, torch.Tensor] = {}

    def add(prefix: str, ldm_names: Mapping[str, str], module: torch.nn.Module) -> None:
        for name, value in module.state_dict().items():
            tensors[prefix + ldm_names[name]] = _to_ldm_shape(ldm_names[name], value).to(dtype)

    add(ldm_keys.UNET, ldm_keys.unet_keys(unet.state_dict(), config.unet), unet)
    add(ldm_keys.VAE, ldm_keys.vae_keys(vae.state_dict(), config.vae), vae)
    add(SD1.encoders[0].prefix, {name: name for name in text.state_dict()}, text)
    return safetensors_bytes(tensors, {})


def _to_ldm_shape(ldm_name: str, value: torch.Tensor) -> torch.Tensor:
    """The attention layers of LDM's VAE are 1×1 convolutions, diffusers' are linear."""
    in_attention = ".attn_1." in ldm_name
    is_conv = ldm_name.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"))
    return value[:, :, None, None] if in_attention and is_conv else value
