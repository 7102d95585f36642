"""Checkpoints in the original layout: one file with the names of CompVis' code, and perhaps a .yaml beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lib_ti.errors import UnusableFile
from lib_ti.model import config as configs
from lib_ti.model import layout
from lib_ti.model.checkpoint import Checkpoint, Part, empty, some, text_encoder
from lib_ti.model.config import UNetConfig, VaeConfig
from lib_ti.model.describe import config_of
from lib_ti.model.sniff import family_of
from lib_ti.model.weights import Weights, open_weights


def open_file(path: Path) -> Checkpoint:
    """Understand a checkpoint file. Raises UnusableFile."""
    weights = open_weights(path)
    family = family_of(weights)
    config = config_of(weights, family)
    return Checkpoint(
        path=path,
        family=family,
        noise=config.noise,
        resolution=config.resolution,
        text=_text_part(weights),
        unet=_unet_part(weights, config.unet),
        vae=_vae_part(weights, config.vae, layout.VAE) if _has(weights, f"{layout.VAE}decoder.") else None,
    )


def _unet_part(weights: Weights, config: UNetConfig) -> Part:
    module = empty(lambda: UNet2DConditionModel(**config.for_diffusers()), weights.path, "UNet")
    names = layout.unet_names(module.state_dict(), config)
    names = {ours: layout.UNET + name for ours, name in names.items()}
    if not _has(weights, layout.UNET):
        names = {ours: layout.ema_name(name) for ours, name in names.items()}
    return _part(module, weights, names, "UNet")


def _vae_part(weights: Weights, config: VaeConfig, prefix: str) -> Part:
    module = empty(lambda: AutoencoderKL(**config.for_diffusers()), weights.path, "VAE")
    names = layout.vae_names(module.state_dict(), config)
    return _part(module, weights, {ours: prefix + name for ours, name in names.items()}, "VAE")


def _text_part(weights: Weights) -> Part:
    prefix = layout.TEXT + ("text_model." if _has(weights, f"{layout.TEXT}text_model.") else "")
    try:
        vocabulary, width = weights.shapes[f"{prefix}embeddings.token_embedding.weight"]
        positions, _ = weights.shapes[f"{prefix}embeddings.position_embedding.weight"]
        inner, _ = weights.shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"]
    except (KeyError, ValueError) as error:
        raise UnusableFile(weights.path, f"its text encoder lacks {error}") from error
    layers = {
        k.removeprefix(f"{prefix}encoder.layers.").split(".")[0]
        for k in weights.shapes
        if k.startswith(f"{prefix}encoder.layers.")
    }
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "quick_gelu",
    }
    module = text_encoder(sizes, weights.path)
    names = {name: prefix + name.removeprefix("text_model.") for name in module.state_dict()}
    names.pop(
        "text_model.embeddings.position_ids", None
    )  # in early transformers releases; `Part.load` counts them itself
    return _part(module, weights, names, "text encoder")


def open_vae(path: Path, checkpoint: Checkpoint) -> Part:
    """A VAE file of either layout, for this checkpoint's architecture. Raises UnusableFile."""
    weights = open_weights(path)
    beside = checkpoint.path.with_suffix(".yaml")
    config = (configs.read(beside) if beside.is_file() else configs.shipped(checkpoint.family.name)).vae
    prefix = layout.VAE if _has(weights, f"{layout.VAE}decoder.") else ""
    if _has(weights, f"{prefix}decoder.up_blocks."):  # diffusers' own names
        module = empty(lambda: AutoencoderKL(**config.for_diffusers()), path, "VAE")
        names = {layout.current_vae_name(name): name for name in weights.shapes}
        return Part(module, weights.renamed(names)).check("VAE")
    if not _has(weights, f"{prefix}decoder.up."):
        raise UnusableFile(path, "this is not a VAE of Stable Diffusion")
    return _vae_part(weights, config, prefix)


def _part(module: torch.nn.Module, weights: Weights, names: Mapping[str, str], what: str) -> Part:
    if missing := [name for name in names.values() if name not in weights.shapes]:
        raise UnusableFile(weights.path, f"its {what} lacks {some(missing)}")
    return Part(module, weights.renamed(names)).check(what)


def _has(weights: Weights, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in weights.shapes)
