"""Detect the family of an LDM checkpoint from the names and shapes of its tensors."""

from __future__ import annotations

from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint.families import SD1, SD2, SDXL, Family
from lib_ti.model.checkpoint.ldm_keys import UNET, ema_key

CONV_IN, CONV_OUT = f"{UNET}input_blocks.0.0.weight", f"{UNET}out.2.weight"


def open_checkpoint_file(path: Path) -> Weights:
    """The weights of a checkpoint file, its keys without what another program may have put in front. Raises UnusableFile."""
    return open_weights(path).without_extra_prefix((CONV_IN, ema_key(CONV_IN)))


def detect_family(weights: Weights) -> Family:
    """The checkpoint's family. Raises UnusableFile for anything that cannot be trained on, saying what it is."""
    if reason := _unsupported_kind(weights):
        raise UnusableFile(weights.path, reason)
    family = next((f for f in (SDXL, SD2, SD1) if any(weights.has_prefix(e.prefix) for e in f.encoders)), None)
    if family is None:
        raise UnusableFile(weights.path, "its text encoder is missing; use a complete checkpoint")
    if missing := [encoder.title for encoder in family.encoders if not weights.has_prefix(encoder.prefix)]:
        raise UnusableFile(
            weights.path, f"this is an {family.title} checkpoint without {missing[0]}, one of its two text encoders"
        )
    if family.pooled_encoder is None and any(".label_emb." in key or "label_emb00" in key for key in weights.shapes):
        raise UnusableFile(
            weights.path, "its UNet wants more than a prompt (as unCLIP's does); use an ordinary checkpoint"
        )
    return family


def _unsupported_kind(weights: Weights) -> str | None:
    """A sentence for the user if the file is no trainable checkpoint."""
    shapes = weights.shapes

    def any_key(*substrings: str) -> bool:
        return any(substring in key for key in shapes for substring in substrings)

    if any_key("lora_up", "lora_down", "lora_A.", "lora_B.", "lora_unet_", "lora_te", "hada_w1", "lokr_w1"):
        return "this is a LoRA, an addition to a checkpoint; choose the checkpoint itself"
    if any_key("joint_blocks", "transformer_blocks.0.norm1_context"):
        return "this is a Stable Diffusion 3 checkpoint, which is not supported"
    if any_key("double_blocks", "single_blocks", "single_transformer_blocks"):
        return "this is a Flux checkpoint, which is not supported"
    if any_key("absmax", "quant_map", "bitsandbytes") or weights.quantised:
        return "its weights are quantised; use the fp16 or fp32 version of the checkpoint"
    if len(shapes) <= 4 and any_key("emb_params", "string_to", "clip_l", "clip_g"):
        return "this is an embedding, not a checkpoint"
    conv_in = next((shapes[key] for key in (CONV_IN, ema_key(CONV_IN)) if key in shapes), None)
    if conv_in is None or len(conv_in) != 4:
        if any_key("encoder.down.", "encoder.down_blocks."):
            return "this is a VAE, not a checkpoint"
        if any_key("control_model.", "controlnet_cond_embedding", "zero_convs"):
            return "this is a ControlNet, not a checkpoint"
        if any_key("down_blocks."):
            return "this is one part of a diffusers folder; choose the folder itself"
        return "this is not a Stable Diffusion checkpoint"
    in_channels = conv_in[1]
    out_channels = (shapes.get(CONV_OUT) or shapes.get(ema_key(CONV_OUT)) or (4,))[0]
    if in_channels != out_channels and in_channels == 9:
        return "this is an inpainting checkpoint, which cannot be trained on; use the ordinary version of it"
    if in_channels != out_channels and in_channels == 8:
        return "this is an image-editing checkpoint (InstructPix2Pix), which cannot be trained on"
    if in_channels != out_channels:
        return f"its UNet takes {in_channels} channels and gives {out_channels} (depth, upscaling); use an ordinary checkpoint"
    if any_key("edm_mean", "edm_vpred.sigma"):
        return "its noise is that of EDM (as Playground 2.5's), which is not supported"
    if any_key("conditioner.embedders.0.model."):
        return "this is an SDXL refiner, which cannot be trained on; use the base checkpoint"
    return None
