"""Load a model in one of three memory modes, with one of the accelerations: what applies when is declared in `TECHNIQUES`.

fast      no memory saving that costs time
balanced  transformer blocks are computed again in the backward pass; text encoders leave the GPU while the VAE works
low       balanced, plus FP8 weights for UNet and text encoders, and tiled VAE encoding, whose results round differently

Why checkpoint the transformer blocks alone: with d channels and n positions, a transformer block saves 17 d n numbers and
costs 24 d² n multiplications beside its attention, a residual block saves 2 d n and costs 18 d² n. In SDXL, transformer blocks
hold nine tenths of all saved activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.attention import BasicTransformerBlock

from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import vae_tiling
from lib_ti.model.memory.fp8 import quantize_network
from lib_ti.model.memory.gradient_checkpointing import checkpoint_modules
from lib_ti.model.memory.lean_layers import LeanGEGLU, use_lean_layers
from lib_ti.model.speed.cuda_graphs import GraphedCallable
from lib_ti.model.speed.prepacked_conv import can_prepack, prepack


@dataclass(frozen=True)
class Technique:
    """A way to save memory or time: in which memory modes it applies on a CPU and on a GPU.

    `acceleration`: applies only if that acceleration is selected.
    """

    apply: Callable[[StableDiffusion], None]
    cpu: tuple[str, ...]
    gpu: tuple[str, ...]
    acceleration: str | None = None

    def applies(self, mode: str, device: torch.device, acceleration: str) -> bool:
        """Whether it is used in this memory mode, on this device, with this acceleration."""
        modes = self.cpu if device.type == "cpu" else self.gpu
        return mode in modes and self.acceleration in (None, acceleration)


def _lean_unet(model: StableDiffusion) -> None:
    use_lean_layers(model.unet)


def _keep_token_embeddings_on_cpu(model: StableDiffusion) -> None:
    """A step uses a few rows of the large matrix, so it need not be on the GPU."""
    for encoder in model.prompt_encoder.encoders.values():
        if not encoder.token_table.is_meta:  # whose data cannot be moved
            encoder.keep_token_table_on_cpu()


def _tile_vae_decoder(model: StableDiffusion) -> None:
    if model.vae is not None:
        vae_tiling.use(model.vae.decoder)


def _tile_vae(model: StableDiffusion) -> None:
    if model.vae is not None:
        vae_tiling.use(model.vae)


def _checkpoint_blocks(model: StableDiffusion) -> None:
    checkpoint_modules(model.unet, lambda _, module: isinstance(module, BasicTransformerBlock))
    for module in model.unet.modules():
        if isinstance(module, LeanGEGLU):  # inside a checkpointed block: do not compute its projection a third time
            module.recompute_projection = False
    for encoder in model.prompt_encoder.encoders.values():
        checkpoint_modules(encoder.model.text_model.encoder.layers, lambda name, _: name.split(".")[1:] == ["mlp"])


def _offload_text_encoders(model: StableDiffusion) -> None:
    model.offload_text_encoders = True


def _quantize_weights(model: StableDiffusion) -> None:
    """Does nothing if the weights were quantized while they were read."""
    for network in (model.unet, *(encoder.model for encoder in model.prompt_encoder.encoders.values())):
        quantize_network(network)


def _prepack_convolutions(model: StableDiffusion) -> None:
    prepack(model.unet, backward=True)
    if model.vae is not None and model.dtype != torch.float16:  # an fp16 VAE may have to be cast to fp32 later
        prepack(model.vae, backward=False)


def _use_cuda_graphs(model: StableDiffusion) -> None:
    model.cuda_graphs = GraphedCallable(model.unet_forward)


NEVER, FAST, LEAN, LOW, ALWAYS = (), ("fast",), ("balanced", "low"), ("low",), ("fast", "balanced", "low")

TECHNIQUES = (
    Technique(_lean_unet, cpu=LEAN, gpu=ALWAYS),
    Technique(_keep_token_embeddings_on_cpu, cpu=NEVER, gpu=ALWAYS),
    Technique(_tile_vae_decoder, cpu=LEAN, gpu=ALWAYS),
    Technique(_checkpoint_blocks, cpu=LEAN, gpu=LEAN),
    Technique(_offload_text_encoders, cpu=LEAN, gpu=LEAN),
    Technique(_tile_vae, cpu=LOW, gpu=LOW),
    Technique(_quantize_weights, cpu=LOW, gpu=LOW),
    Technique(_prepack_convolutions, cpu=FAST, gpu=NEVER, acceleration="arranged"),
    Technique(_use_cuda_graphs, cpu=NEVER, gpu=ALWAYS, acceleration="graphs"),
)
"""In the order in which they are applied. Each can be applied again, and leaner modes on top of others, without harm."""


def load(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, mode: str, acceleration: str = "none"
) -> StableDiffusion:
    """Read a checkpoint's weights and apply the mode's techniques. The checkpoint must have a VAE."""
    model = StableDiffusion.load(checkpoint, dtype, device, fp8=mode in LOW)
    apply(model, mode, acceleration)
    return model


def apply(model: StableDiffusion, mode: str, acceleration: str = "none") -> None:
    """Let a loaded model work in a memory mode; techniques of a leaner mode that it uses already stay."""
    for technique in TECHNIQUES:
        if technique.applies(mode, model.device, acceleration):
            technique.apply(model)


def reduce_vae_memory(model: StableDiffusion) -> None:
    """Use all techniques that make the VAE need less memory, in whatever mode."""
    _offload_text_encoders(model)
    _tile_vae(model)


def available_acceleration(requested: str, mode: str, device: torch.device, dtype: torch.dtype) -> str:
    """The requested acceleration if it is available here, else "none".

    A run may be resumed on another device, with another torch, or in a leaner mode.
    """
    if not any(t.acceleration == requested and t.applies(mode, device, requested) for t in TECHNIQUES):
        return "none"
    return "none" if requested == "arranged" and not can_prepack(dtype) else requested
