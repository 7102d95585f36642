"""Map the parameter names of diffusers' and transformers' modules to the keys of LDM checkpoints.

The mapping is computed from the architecture, so it holds for any size, and it is one to one.
"""

from __future__ import annotations

from collections.abc import Iterable

from lib_ti.formats.weights import TensorSource
from lib_ti.model.checkpoint.yaml_config import UNetConfig, VaeConfig

UNET, VAE = "model.diffusion_model.", "first_stage_model."
"""Key prefixes of the UNet and the VAE; those of the text encoders are in `families`."""

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OPENCLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_OPENCLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_IN_PROJECTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LAYERS = "text_model.encoder.layers."
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_keys(parameters: Iterable[str], config: UNetConfig) -> dict[str, str]:
    """Parameter name in diffusers' UNet → LDM key without prefix."""
    blocks = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    last, position = len(config.block_out_channels) - 1, 1
    for level, count in enumerate(config.num_res_blocks):
        for block in range(count):
            blocks[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{position}.0"
            blocks[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{position}.1"
            position += 1
        if level < last:
            blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{position}.0.op"
            position += 1
    position = 0
    for up, level in enumerate(range(last, -1, -1)):
        for block in range(config.num_res_blocks[level] + 1):
            blocks[f"up_blocks.{up}.resnets.{block}"] = f"output_blocks.{position}.0"
            blocks[f"up_blocks.{up}.attentions.{block}"] = f"output_blocks.{position}.1"
            if level > 0 and block == config.num_res_blocks[level]:
                index = 2 if config.attention[level] else 1
                blocks[f"up_blocks.{up}.upsamplers.0.conv"] = f"output_blocks.{position}.{index}.conv"
            position += 1
    return {name: _translate(name, blocks, {".resnets.": _RESNET}) for name in parameters}


def vae_keys(parameters: Iterable[str], config: VaeConfig) -> dict[str, str]:
    """Parameter name in diffusers' AutoencoderKL → LDM key without prefix."""
    last = len(config.block_out_channels) - 1
    blocks = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        blocks |= {
            f"{half}.conv_in": f"{half}.conv_in",
            f"{half}.conv_norm_out": f"{half}.norm_out",
            f"{half}.conv_out": f"{half}.conv_out",
            f"{half}.mid_block.resnets.0": f"{half}.mid.block_1",
            f"{half}.mid_block.attentions.0": f"{half}.mid.attn_1",
            f"{half}.mid_block.resnets.1": f"{half}.mid.block_2",
        }
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        for block in range(config.num_res_blocks + 1):
            for ours, theirs in (("resnets", "block"), ("attentions", "attn")):
                blocks[f"{down}.{ours}.{block}"] = f"encoder.down.{level}.{theirs}.{block}"
                blocks[f"{up}.{ours}.{block}"] = f"decoder.up.{level}.{theirs}.{block}"
        blocks[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        blocks[f"{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return {
        name: _translate(name, blocks, {".resnets.": _VAE_RESNET, ".attentions.": _VAE_ATTENTION})
        for name in parameters
    }


def openclip_key(name: str) -> TensorSource:
    """The source in OpenCLIP, without prefix, of a parameter of transformers' CLIP text model.

    OpenCLIP's attention has one matrix for queries, keys and values, stacked along the first axis.
    """
    if name == "text_projection.weight":
        return TensorSource("text_projection", transposed=True)
    if name in _OPENCLIP:
        return TensorSource(_OPENCLIP[name])
    number, _, inner = name.removeprefix(LAYERS).partition(".")
    module, _, parameter = inner.rpartition(".")
    layer = f"transformer.resblocks.{number}"
    if module in _IN_PROJECTION:
        return TensorSource(f"{layer}.attn.in_proj_{parameter}", _IN_PROJECTION.index(module), len(_IN_PROJECTION))
    return TensorSource(f"{layer}.{_OPENCLIP_LAYER[module]}.{parameter}")


def current_vae_key(key: str) -> str:
    """A key of diffusers' VAE as current releases spell it; releases before 0.13 named the attention layers differently."""
    parts = key.split(".")
    return ".".join(_OLD_VAE_ATTENTION.get(part, part) for part in parts) if "attentions" in parts else key


def ema_key(key: str) -> str:
    """The key of the exponential moving average of a UNet parameter: CompVis' LitEma removes the dots."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def _translate(name: str, blocks: dict[str, str], inner_names: dict[str, dict[str, str]]) -> str:
    """`name` with its block's prefix replaced, and the name inside the block where `inner_names` has that kind of block."""
    stem = max((block for block in blocks if name.startswith(block + ".")), key=len)
    inner = name[len(stem) + 1 :]
    for kind, table in inner_names.items():
        if kind in stem + ".":
            module, _, parameter = inner.rpartition(".")
            inner = f"{table.get(module, module)}.{parameter}"
    return f"{blocks[stem]}.{inner}"
