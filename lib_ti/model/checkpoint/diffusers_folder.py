"""Checkpoints in diffusers' layout: a folder with a sub-folder for each network.

The networks' sizes come from the folder's config.json files; the weights carry diffusers' names already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint.checkpoint import Checkpoint, Component, build_on_meta, build_text_encoder
from lib_ti.model.checkpoint.inspect import folder_family, folder_noise_schedule, folder_resolution, read_json
from lib_ti.model.checkpoint.ldm_keys import current_vae_key


def open_folder(folder: Path) -> Checkpoint:
    """Open a diffusers folder. Raises UnusableFile."""
    family, unet_config = folder_family(folder)
    text_encoder_folders = ("text_encoder", "text_encoder_2")
    unet = _build(UNet2DConditionModel, unet_config, folder / "unet", "UNet")
    return Checkpoint(
        path=folder,
        family=family,
        noise_schedule=folder_noise_schedule(folder),
        resolution=folder_resolution(folder, unet_config, family),
        text_encoders={
            encoder.name: _text_encoder_component(folder / name, projection=encoder.name == family.pooled_encoder)
            for encoder, name in zip(family.encoders, text_encoder_folders, strict=False)
        },
        unet=Component(unet, _open_weights(folder / "unet")).validated("UNet"),
        vae=open_vae(folder / "vae") if (folder / "vae").is_dir() else None,
        # diffusers removes the layers that SD2 does not use
        layers_removed=0 if family.pooled_encoder else family.encoders[0].clip_skip - 1,
    )


def open_vae(folder: Path) -> Component:
    """The VAE in a folder of its own. Raises UnusableFile."""
    weights = _open_weights(folder)
    keys = {current_vae_key(key): key for key in weights.shapes}
    module = _build(AutoencoderKL, read_json(folder / "config.json"), folder, "VAE")
    return Component(module, weights.renamed(keys)).validated("VAE")


def _text_encoder_component(folder: Path, projection: bool) -> Component:
    config = read_json(folder / "config.json")
    check_size(config, folder)
    module = build_text_encoder(config, folder, projection)
    weights = _open_weights(folder)
    if weights.has_prefix("embeddings."):  # saved by transformers 5, whose text encoder has one level less
        weights = weights.renamed({f"text_model.{name}": name for name in weights.shapes})
    return Component(module, weights).validated("text encoder")


def _build(model_class: Any, config: Mapping[str, Any], folder: Path, title: str) -> torch.nn.Module:
    check_size(config, folder)
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    return build_on_meta(lambda: model_class.from_config(public), folder, title)


_COUNTS = (
    "layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "num_hidden_layers",
    "mid_block_layers", "norm_num_groups",
)  # fmt: skip
MAX_BLOCKS, MAX_LEVELS = 512, 16


def check_size(config: Mapping[str, Any], path: Path) -> None:
    """Raises UnusableFile for a network of more parts than any has, which would take forever to build."""
    levels = max((len(value) for value in config.values() if isinstance(value, list)), default=0)
    blocks = max((_total(config.get(name)) for name in _COUNTS), default=0)
    if levels > MAX_LEVELS or blocks > MAX_BLOCKS:
        raise UnusableFile(path, f"its configuration asks for {max(levels, blocks)} parts, more than any network has")


def _total(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_total, value))
    return value if isinstance(value, int) else 0


def _open_weights(folder: Path) -> Weights:
    """One file, or several with an index; the full-precision variant if there are more than one."""
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for variant in ("", ".fp16", ".non_ema"):
            for suffix in (".safetensors", ".bin"):
                path = folder / f"{stem}{variant}{suffix}"
                if path.exists():
                    return open_weights(path)
                index = folder / f"{stem}{suffix}.index{variant}.json"
                if index.exists():
                    return _open_shards(index)
    raise UnusableFile(folder, "there are no weights in this folder")


def _open_shards(index: Path) -> Weights:
    weight_map = read_json(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise UnusableFile(index, "it does not say where the weights are")
    # .name: a shard lies beside its index, whatever path the index gives
    shards = {file: open_weights(index.parent / Path(file).name) for file in sorted(set(weight_map.values()))}
    shapes = {name: shards[file].shapes[name] for name, file in weight_map.items() if name in shards[file].shapes}
    quantised = any(shard.quantised for shard in shards.values())
    path = next(iter(shards.values())).path
    return Weights(path, shapes, lambda name: shards[weight_map[name]].read(name), {}, quantised)
