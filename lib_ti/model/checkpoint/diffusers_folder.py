"""Checkpoints in diffusers' layout: a folder with one sub-folder for each network.

The networks' sizes come from the folder's own configurations, and their weights carry diffusers' names already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint.checkpoint import Checkpoint, Part, empty, text_encoder
from lib_ti.model.checkpoint.inspect import family_of_folder, noise_of_folder, read_json, side_of_folder
from lib_ti.model.checkpoint.ldm_keys import current_vae_name


def open_folder(folder: Path) -> Checkpoint:
    """Understand a diffusers folder. Raises UnusableFile."""
    family, unet_config = family_of_folder(folder)
    places = ("text_encoder", "text_encoder_2")
    return Checkpoint(
        path=folder,
        family=family,
        noise=noise_of_folder(folder),
        resolution=side_of_folder(folder, unet_config),
        text={
            encoder.name: _text_part(folder / place, projecting=encoder.name == family.pooled)
            for encoder, place in zip(family.encoders, places, strict=False)
        },
        unet=Part(_empty(UNet2DConditionModel, unet_config, folder / "unet", "UNet"), _weights(folder / "unet")).check(
            "UNet"
        ),
        vae=vae_part(folder / "vae") if (folder / "vae").is_dir() else None,
        cut=0 if family.pooled else family.encoders[0].layer - 1,  # diffusers cuts off what SD2 does not use
    )


def _text_part(folder: Path, projecting: bool) -> Part:
    module = text_encoder(read_json(folder / "config.json"), folder, projecting)
    return Part(module, _weights(folder)).check("text encoder")


def vae_part(folder: Path) -> Part:
    """A VAE from a folder of its own. Raises UnusableFile."""
    weights = _weights(folder)
    names = {current_vae_name(name): name for name in weights.shapes}
    module = _empty(AutoencoderKL, read_json(folder / "config.json"), folder, "VAE")
    return Part(module, weights.renamed(names)).check("VAE")


def _empty(network: Any, config: Mapping[str, Any], folder: Path, what: str) -> torch.nn.Module:
    return empty(lambda: network.from_config({k: v for k, v in config.items() if not k.startswith("_")}), folder, what)


def _weights(folder: Path) -> Weights:
    """One file, or several with an index; the full-precision variant where there are more."""
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for variant in ("", ".fp16", ".non_ema"):
            for suffix in (".safetensors", ".bin"):
                path = folder / f"{stem}{variant}{suffix}"
                if path.exists():
                    return open_weights(path)
                index = folder / f"{stem}{suffix}.index{variant}.json"
                if index.exists():
                    return _shards(index)
    raise UnusableFile(folder, "there are no weights in this folder")


def _shards(index: Path) -> Weights:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UnusableFile(index, "it does not say where the weights are")
    shards = {name: open_weights(index.parent / Path(name).name) for name in sorted(set(places.values()))}
    shapes = {name: shape for shard in shards.values() for name, shape in shard.shapes.items()}
    shapes = {name: shapes[name] for name, place in places.items() if name in shards[place].shapes}
    quantised = any(shard.quantised for shard in shards.values())
    return Weights(
        next(iter(shards.values())).path, shapes, lambda name: shards[places[name]].read(name), {}, quantised
    )
