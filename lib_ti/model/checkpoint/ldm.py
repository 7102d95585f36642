"""Checkpoints in the original layout: one file with the parameter names of CompVis' latent-diffusion (LDM)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint.checkpoint import (
    TOKEN_EMBEDDING,
    Checkpoint,
    Component,
    build_on_meta,
    component_from_keys,
)
from lib_ti.model.checkpoint.detect import detect_family, open_checkpoint_file
from lib_ti.model.checkpoint.families import EncoderSpec
from lib_ti.model.checkpoint.inspect import read_model_config
from lib_ti.model.checkpoint.ldm_text_encoder import text_encoder_component
from lib_ti.model.checkpoint.yaml_config import UNetConfig, VaeConfig, default_config, read_config


def open_file(path: Path) -> Checkpoint:
    """Open a checkpoint file. Raises UnusableFile."""
    weights = open_checkpoint_file(path)
    family = detect_family(weights)
    config = read_model_config(weights, family)
    text_encoders = {
        encoder.name: text_encoder_component(weights, encoder, encoder.name == family.pooled_encoder)
        for encoder in family.encoders
    }
    pooled_width = 0
    if family.pooled_encoder:
        pooled_width = text_encoders[family.pooled_encoder].weights.shapes["text_projection.weight"][0]
    return Checkpoint(
        path=path,
        family=family,
        noise_schedule=config.noise_schedule,
        resolution=config.resolution or 512,
        text_encoders=text_encoders,
        unet=_unet_component(weights, config.unet, pooled_width),
        vae=_vae_component(weights, config.vae, ldm_keys.VAE)
        if weights.has_prefix(f"{ldm_keys.VAE}decoder.")
        else None,
        layers_removed=int(all(_lacks_last_layer(e, text_encoders[e.name]) for e in family.encoders)),
        prediction_known=config.prediction_known,
    )


def _lacks_last_layer(encoder: EncoderSpec, component: Component) -> bool:
    """Files converted from a diffusers folder lack the last layer of SD2's text encoder, which is never used."""
    width = component.weights.shapes[TOKEN_EMBEDDING][1]
    config: Any = component.module.config
    return (
        encoder.final_layer_norm
        and encoder.clip_skip > 1
        and (width, config.num_hidden_layers) == (encoder.width, encoder.num_layers - 1)
    )


def _unet_component(weights: Weights, config: UNetConfig, pooled_width: int) -> Component:
    added_shape = weights.shapes.get(f"{ldm_keys.UNET}label_emb.0.0.weight")
    if pooled_width and added_shape and not config.adm_in_channels:  # some .yaml files omit it
        config = replace(config, adm_in_channels=added_shape[-1])
    added = config.adm_in_channels
    if added and (
        added <= pooled_width or (added - pooled_width) % 12
    ):  # six sinusoidal embeddings, each of even width
        raise UnusableFile(
            weights.path, f"adm_in_channels {added} does not fit a pooled prompt of width {pooled_width}"
        )
    module = build_on_meta(lambda: UNet2DConditionModel(**config.diffusers_kwargs(pooled_width)), weights.path, "UNet")
    keys = {name: ldm_keys.UNET + key for name, key in ldm_keys.unet_keys(module.state_dict(), config).items()}
    if not weights.has_prefix(ldm_keys.UNET):
        keys = {name: ldm_keys.ema_key(key) for name, key in keys.items()}
    return component_from_keys(module, weights, keys, "UNet")


def _vae_component(weights: Weights, config: VaeConfig, prefix: str) -> Component:
    module = build_on_meta(lambda: AutoencoderKL(**config.diffusers_kwargs()), weights.path, "VAE")
    keys = ldm_keys.vae_keys(module.state_dict(), config)
    return component_from_keys(module, weights, {name: prefix + key for name, key in keys.items()}, "VAE")


def open_vae(path: Path, checkpoint: Checkpoint) -> Component:
    """A VAE file, with LDM's or diffusers' names, of this checkpoint's architecture. Raises UnusableFile."""
    weights = open_weights(path)
    if not weights.has_prefix(ldm_keys.VAE):
        weights = weights.without_extra_prefix(("decoder.conv_in.weight",))
    yaml_path = checkpoint.path.with_suffix(".yaml")
    config = (read_config(yaml_path) if yaml_path.is_file() else default_config(checkpoint.family.name)).vae
    prefix = ldm_keys.VAE if weights.has_prefix(f"{ldm_keys.VAE}decoder.") else ""
    if weights.has_prefix(f"{prefix}decoder.up_blocks."):  # diffusers' names
        module = build_on_meta(lambda: AutoencoderKL(**config.diffusers_kwargs()), path, "VAE")
        keys = {ldm_keys.current_vae_key(key): key for key in weights.shapes}
        return Component(module, weights.renamed(keys)).validated("VAE")
    if not weights.has_prefix(f"{prefix}decoder.up."):
        raise UnusableFile(path, "this is not a VAE of Stable Diffusion")
    return _vae_component(weights, config, prefix)
