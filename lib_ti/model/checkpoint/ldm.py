"""Checkpoints in the original layout: one file with the names of CompVis' code, and perhaps a .yaml beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint import yaml_config as configs
from lib_ti.model.checkpoint.checkpoint import TOKEN_TABLE, Checkpoint, Part, empty, named_part
from lib_ti.model.checkpoint.detect import family_of
from lib_ti.model.checkpoint.families import Encoder
from lib_ti.model.checkpoint.inspect import config_of
from lib_ti.model.checkpoint.ldm_text_encoder import text_part
from lib_ti.model.checkpoint.yaml_config import UNetConfig, VaeConfig


def open_file(path: Path) -> Checkpoint:
    """Understand a checkpoint file. Raises UnusableFile."""
    weights = open_weights(path)
    family = family_of(weights)
    config = config_of(weights, family)
    text = {encoder.name: text_part(weights, encoder, encoder.name == family.pooled) for encoder in family.encoders}
    pooled = text[family.pooled].weights.shapes["text_projection.weight"][0] if family.pooled else 0
    return Checkpoint(
        path=path,
        family=family,
        noise=config.noise,
        resolution=config.resolution or 512,
        text=text,
        unet=_unet_part(weights, config.unet, pooled),
        vae=_vae_part(weights, config.vae, ldm_keys.VAE) if weights.has_prefix(f"{ldm_keys.VAE}decoder.") else None,
        cut=int(all(_is_cut(encoder, text[encoder.name]) for encoder in family.encoders)),
        told=config.told,
    )


def _is_cut(encoder: Encoder, part: Part) -> bool:
    """Files that were a diffusers folder once lack the last layer of SD2's text encoder, which nothing uses."""
    width = part.weights.shapes[TOKEN_TABLE][1]
    sizes: Any = part.module.config
    return (
        encoder.normed and encoder.layer > 1 and (width, sizes.num_hidden_layers) == (encoder.width, encoder.layers - 1)
    )


def _unet_part(weights: Weights, config: UNetConfig, pooled: int) -> Part:
    told = weights.shapes.get(f"{ldm_keys.UNET}label_emb.0.0.weight")
    if pooled and told and not config.extra:  # some .yaml files leave it out
        config = replace(config, extra=told[-1])
    if config.extra and (config.extra <= pooled or (config.extra - pooled) % 12):
        raise UnusableFile(
            weights.path, f"adm_in_channels {config.extra} does not fit a pooled prompt of width {pooled}"
        )
    module = empty(lambda: UNet2DConditionModel(**config.for_diffusers(pooled)), weights.path, "UNet")
    names = ldm_keys.unet_names(module.state_dict(), config)
    names = {ours: ldm_keys.UNET + name for ours, name in names.items()}
    if not weights.has_prefix(ldm_keys.UNET):
        names = {ours: ldm_keys.ema_name(name) for ours, name in names.items()}
    return named_part(module, weights, names, "UNet")


def _vae_part(weights: Weights, config: VaeConfig, prefix: str) -> Part:
    module = empty(lambda: AutoencoderKL(**config.for_diffusers()), weights.path, "VAE")
    names = ldm_keys.vae_names(module.state_dict(), config)
    return named_part(module, weights, {ours: prefix + name for ours, name in names.items()}, "VAE")


def open_vae(path: Path, checkpoint: Checkpoint) -> Part:
    """A VAE file of either layout, for this checkpoint's architecture. Raises UnusableFile."""
    weights = open_weights(path)
    beside = checkpoint.path.with_suffix(".yaml")
    config = (configs.read(beside) if beside.is_file() else configs.shipped(checkpoint.family.name)).vae
    prefix = ldm_keys.VAE if weights.has_prefix(f"{ldm_keys.VAE}decoder.") else ""
    if weights.has_prefix(f"{prefix}decoder.up_blocks."):  # diffusers' own names
        module = empty(lambda: AutoencoderKL(**config.for_diffusers()), path, "VAE")
        names = {ldm_keys.current_vae_name(name): name for name in weights.shapes}
        return Part(module, weights.renamed(names)).check("VAE")
    if not weights.has_prefix(f"{prefix}decoder.up."):
        raise UnusableFile(path, "this is not a VAE of Stable Diffusion")
    return _vae_part(weights, config, prefix)
