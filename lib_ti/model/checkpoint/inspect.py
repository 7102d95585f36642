"""Describe a checkpoint from headers and configuration files alone, without building a network.

This is fast enough for every keystroke in a form, and works in a WebUI's process, which may lack diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.formats.hf_cache import resolve_snapshot
from lib_ti.formats.text_file import read_text
from lib_ti.formats.weights import Weights
from lib_ti.model.checkpoint.detect import CONV_IN, detect_family, open_checkpoint_file
from lib_ti.model.checkpoint.embedding_widths import widths_from_folder, widths_from_shapes
from lib_ti.model.checkpoint.families import SD1, SD2, SDXL, Family
from lib_ti.model.checkpoint.ldm_keys import ema_key
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.checkpoint.yaml_config import ModelConfig, default_config, read_config

MAX_JSON_BYTES = 16 << 20  # the index of a large model's shards takes one


@dataclass(frozen=True)
class CheckpointInfo:
    """What the headers tell.

    `resolution`: side in pixels of the images it was trained on. `widths_by_encoder`: of the token embeddings.
    `prediction_known`: whether the prediction type is stated, so that `noise_schedule` can be relied on. `standard_unet`:
    whether the UNet has the sizes of the family's released checkpoints.
    """

    family: Family
    resolution: int
    widths_by_encoder: Mapping[str, int]
    noise_schedule: NoiseSchedule
    prediction_known: bool
    standard_unet: bool


def inspect_checkpoint(path: Path) -> CheckpointInfo:
    """Describe a checkpoint file or diffusers folder. Raises UnusableFile for anything that cannot be trained on."""
    path = resolve_snapshot(path)
    if path.is_dir():
        family, unet_config = folder_family(path)
        channels = tuple(unet_config.get("block_out_channels") or ())
        return CheckpointInfo(
            family=family,
            resolution=folder_resolution(path, unet_config, family),
            widths_by_encoder=_widths_by_encoder(family, widths_from_folder(path) or ()),
            noise_schedule=folder_noise_schedule(path),
            prediction_known=True,
            standard_unet=channels == default_config(family.name).unet.block_out_channels,
        )
    weights = open_checkpoint_file(path)
    family = detect_family(weights)
    config = read_model_config(weights, family)
    return CheckpointInfo(
        family=family,
        resolution=config.resolution or 512,
        widths_by_encoder=_widths_by_encoder(family, widths_from_shapes(weights.shapes) or ()),
        noise_schedule=config.noise_schedule,
        prediction_known=config.prediction_known,
        standard_unet=config.unet == default_config(family.name).unet,
    )


def _widths_by_encoder(family: Family, widths: Sequence[int]) -> dict[str, int]:
    return {encoder.name: width for encoder, width in zip(family.encoders, widths, strict=False)}


def read_model_config(weights: Weights, family: Family) -> ModelConfig:
    """The configuration of an LDM checkpoint: the .yaml beside it, else its family's default.

    What that leaves open is read from the file's keys and metadata, then taken from the family. Raises UnusableFile if a
    .yaml is needed and missing.
    """
    default, yaml_path = default_config(family.name), weights.path.with_suffix(".yaml")
    if yaml_path.exists():
        config = read_config(yaml_path)
        config = _with_file_metadata(weights, config, fallback="epsilon")  # the format's own default
        return replace(config, resolution=config.resolution or default.resolution)
    conv_in = weights.shapes.get(CONV_IN) or weights.shapes[ema_key(CONV_IN)]
    if conv_in[0] != default.unet.block_out_channels[0]:
        raise UnusableFile(
            weights.path,
            f"its sizes are none of a known family's; put its configuration beside it, as {yaml_path.name}",
        )
    config = _with_file_metadata(weights, default, fallback=family.prediction_type)
    resolution = family.resolution_if_v
    if resolution and (config.noise_schedule.prediction_type == "v" or str(resolution) in weights.path.stem):
        config = replace(config, resolution=resolution)
    return config


def _with_file_metadata(weights: Weights, config: ModelConfig, fallback: str | None) -> ModelConfig:
    """The config with the noise schedule that the file itself states.

    Read are the keys of ComfyUI and NovelAI (`v_pred`, `ztsnr`) and the metadata of kohya's scripts and modelspec.
    `fallback`: the prediction type if nothing states it.
    """
    metadata = {name: value.casefold() for name, value in weights.metadata.items()}
    modelspec = (metadata.get("modelspec.prediction_type"), metadata.get("modelspec.predict_key"))
    stated = config.noise_schedule.prediction_type if config.prediction_known else None
    if stated is None and (
        "v_pred" in weights.shapes or metadata.get("ss_v_parameterization") == "true" or "v" in modelspec
    ):
        stated = "v"
    if stated is None and "epsilon" in modelspec:
        stated = "epsilon"
    zero_terminal_snr = (
        config.noise_schedule.zero_terminal_snr
        or "ztsnr" in weights.shapes
        or metadata.get("ss_zero_terminal_snr") == "true"
    )
    prediction_type = stated or fallback
    schedule = replace(
        config.noise_schedule, prediction_type=prediction_type or "epsilon", zero_terminal_snr=zero_terminal_snr
    )
    return replace(config, noise_schedule=schedule, prediction_known=prediction_type is not None)


def folder_family(folder: Path) -> tuple[Family, Mapping[str, Any]]:
    """The family of a diffusers folder, and its UNet's config.json. Raises UnusableFile."""
    index = read_json(folder / "model_index.json", "this is not a diffusers folder: it has no model_index.json")
    encoders = [n for n in ("text_encoder", "text_encoder_2", "text_encoder_3") if _is_component(index.get(n))]
    if "text_encoder_3" in encoders or "transformer" in index or "Flux" in str(index.get("_class_name")):
        raise UnusableFile(folder, f"this is a folder for {index.get('_class_name')}, which is not supported")
    if encoders == ["text_encoder_2"] and "XL" in str(index.get("_class_name")):
        raise UnusableFile(folder, "this is an SDXL refiner, which cannot be trained on; use the base checkpoint")
    unet = read_json(folder / "unet" / "config.json")
    if unet.get("in_channels") != unet.get("out_channels", 4):
        raise UnusableFile(folder, "this is an inpainting or editing checkpoint, which cannot be trained on")
    if "text_encoder_2" in encoders:
        if "text_encoder" not in encoders:
            raise UnusableFile(
                folder, f"this is an {SDXL.title} checkpoint without CLIP-L, one of its two text encoders"
            )
        return SDXL, unet
    if unet.get("addition_embed_type") == "text_time":
        raise UnusableFile(folder, f"this is an {SDXL.title} checkpoint without CLIP-G, one of its two text encoders")
    text = read_json(folder / "text_encoder" / "config.json")
    return (SD1 if text.get("hidden_act") == "quick_gelu" else SD2), unet


def folder_resolution(folder: Path, unet: Mapping[str, Any], family: Family) -> int:
    """Side in pixels of the images that the folder's UNet was trained on. Raises UnusableFile.

    `sample_size` may be two sides, or null: then it is the family's.
    """
    size = unet.get("sample_size")
    if size is None:
        is_v = family.resolution_if_v and folder_noise_schedule(folder).prediction_type == "v"
        return (family.resolution_if_v if is_v else default_config(family.name).resolution) or 512
    if isinstance(size, list) and size and all(isinstance(side, int) for side in size):
        size = max(size)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 512:
        raise UnusableFile(folder / "unet" / "config.json", f"unreadable (sample_size {size!r})")
    return 8 * size


def folder_noise_schedule(folder: Path) -> NoiseSchedule:
    """The noise schedule in the folder's scheduler_config.json. Raises UnusableFile."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise UnusableFile(path, f"the noise schedule {config['beta_schedule']!r} is not supported")
    prediction_types = {"epsilon": "epsilon", "v_prediction": "v"}
    if (prediction_type := config.get("prediction_type", "epsilon")) not in prediction_types:
        raise UnusableFile(path, f"the prediction type {prediction_type!r} is not supported")
    return NoiseSchedule(
        num_train_timesteps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.00085),
        beta_end=config.get("beta_end", 0.012),
        prediction_type=prediction_types[prediction_type],
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )


def read_json(path: Path, if_missing: str = "the file is missing") -> dict[str, Any]:
    """A JSON object from a diffusers folder. Raises UnusableFile, with `if_missing` as its reason if there is no such file."""
    if not path.exists() and not path.is_symlink():
        raise UnusableFile(path, if_missing)
    try:
        record = json.loads(read_text(path, MAX_JSON_BYTES).text)
    except (ValueError, RecursionError) as error:
        raise UnusableFile(path, f"unreadable ({error})") from error
    if not isinstance(record, dict):
        raise UnusableFile(path, "unreadable (not a JSON object)")
    return record


def _is_component(entry: Any) -> bool:
    """Whether an entry of model_index.json names a library and a class; absent components have nulls."""
    return isinstance(entry, list) and any(entry)
