"""What a loaded model does to need less memory, in three modes.

fast      nothing is computed twice but what costs next to nothing: activations, norms before them, and the widening of the
          narrowest blocks; latents become pictures in bands of rows; the vocabulary stays in the processor's memory
balanced  the transformers' blocks are computed a second time in the backward pass; while the VAE works, the text encoders
          leave the card
low       as balanced, and the weights of UNet and text encoders lie in memory as eight-bit floats; pictures become latents in
          bands, too, whose rounding is another

What is worth a second computation is told by the bytes it saves for each operation. With d channels and n places, a
transformer's block keeps 17 d n numbers and takes 24 d² n multiplications beside its attention; a residual block keeps 2 d n
and takes 18 d² n. So only the transformers' are: in SDXL they hold nine tenths of all that is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch.nn import functional as F

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import vae_tiling
from lib_ti.model.memory.fp8 import forget_inputs, pack
from lib_ti.model.memory.gradient_checkpointing import is_recomputed, recompute, recomputed

NARROW = 320
"""Channels up to which a block's widening, 8 d n numbers for 8 d² n multiplications, is computed twice in the fast mode, too."""


class Resnet(ResnetBlock2D):  # type: ignore[misc]
    """A residual block that keeps what goes into its norms and nothing else."""

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        found = self.conv1(recomputed(lambda y: F.silu(self.norm1(y)), x))  # (b, c, h, w)
        found = found + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        found = self.conv2(recomputed(lambda y: F.silu(self.norm2(y)), found))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        total: torch.Tensor = shortcut + found
        return total


class Gated(GEGLU):  # type: ignore[misc]
    """A gated activation that keeps what its matrix gives and nothing else; if `thrifty`, what the matrix is given."""

    thrifty = False

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        def gate(both: torch.Tensor) -> torch.Tensor:
            values, gates = both.chunk(2, dim=-1)
            return values * F.gelu(gates)

        if self.thrifty:
            return recomputed(lambda y: gate(self.proj(y)), x)
        return recomputed(gate, self.proj(x))


def economise(model: StableDiffusion, mode: str) -> None:
    """Let a loaded model need no more memory than `mode` does; one that needs less already stays as it is."""
    if mode == "fast" and model.device.type == "cpu":
        return
    unet, encoders = model.unet, [encoder.model for encoder in model.text.encoders.values()]
    _lighten(unet)
    if model.device.type == "cuda":
        for encoder in model.text.encoders.values():
            encoder.keep_token_table_on_cpu()
    if model.vae is not None:
        vae_tiling.use(model.vae.decoder)
    if mode == "fast":
        return
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock) and not is_recomputed(module):
            recompute(module)
        elif isinstance(module, Gated):  # twice is enough
            module.thrifty = False
    for encoder in encoders:
        for layer in encoder.text_model.encoder.layers:
            if not is_recomputed(layer.mlp):
                recompute(layer.mlp)
    model.offload_text_encoders = True
    if mode == "low":
        make_room(model)
        for network in (unet, *encoders):
            pack(network)


def make_room(model: StableDiffusion) -> None:
    """Let the VAE's work take less memory."""
    model.offload_text_encoders = True
    if model.vae is not None:
        vae_tiling.use(model.vae)


def _lighten(unet: torch.nn.Module) -> None:
    """What costs next to nothing: nothing is kept that can be had from what is kept anyway."""
    forget_inputs(unet)
    module: Any
    for module in unet.modules():
        if type(module) is GEGLU:
            module.__class__ = Gated
            module.thrifty = module.proj.in_features <= NARROW
        elif type(module) is ResnetBlock2D and _is_plain(module):
            module.__class__ = Resnet


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        block.time_embedding_norm == "default"
        and block.time_emb_proj is not None
        and not (block.up or block.down or block.skip_time_act)
        and block.output_scale_factor == 1.0
        and isinstance(block.nonlinearity, torch.nn.SiLU)
    )
