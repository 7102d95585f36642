"""What a checkpoint is, told from headers and configurations alone and without building a network.

So it can be asked in a WebUI's own process, which may lack diffusers, and at each keystroke.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint import yaml_config as configs
from lib_ti.model.checkpoint.detect import family_of
from lib_ti.model.checkpoint.embedding_widths import widths_from_folder, widths_from_shapes
from lib_ti.model.checkpoint.families import SD1, SD2, SDXL, Family
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.checkpoint.yaml_config import ModelConfig


@dataclass(frozen=True)
class Description:
    """`resolution`: the side of the pictures it is made for, in pixels. `widths_by_encoder`: of an embedding's vectors.

    `told`: whether anything says what the model predicts, so that `noise` can be relied on. `usual`: its UNet has the sizes of
    its family's.
    """

    family: Family
    resolution: int
    widths_by_encoder: Mapping[str, int]
    noise: NoiseSchedule
    told: bool
    usual: bool


def describe(path: Path) -> Description:
    """The description of a checkpoint file or a diffusers folder. Raises UnusableFile for whatever cannot be trained on."""
    if path.is_dir():
        family, unet = family_of_folder(path)
        widths, noise = widths_from_folder(path) or (), noise_of_folder(path)
        usual = tuple(unet.get("block_out_channels") or ()) == configs.shipped(family.name).unet.widths
        return Description(family, side_of_folder(path, unet), _by_encoder(family, widths), noise, True, usual)
    weights = open_weights(path)
    family = family_of(weights)
    config = config_of(weights, family)
    widths = widths_from_shapes(weights.shapes) or ()
    usual = config.unet == configs.shipped(family.name).unet
    return Description(family, config.resolution or 512, _by_encoder(family, widths), config.noise, config.told, usual)


def _by_encoder(family: Family, widths: Sequence[int]) -> dict[str, int]:
    return {encoder.name: width for encoder, width in zip(family.encoders, widths, strict=False)}


def config_of(weights: Weights, family: Family) -> ModelConfig:
    """From the .yaml beside the file; a real checkpoint needs none. Raises UnusableFile where one would.

    What it leaves open is told by keys and metadata of the file, then by the family.
    """
    shipped, beside = configs.shipped(family.name), weights.path.with_suffix(".yaml")
    if beside.exists():
        config = configs.read(beside)
        marked = _settled(weights, config, otherwise="epsilon")  # which is what its absence in a .yaml means
        return replace(marked, resolution=config.resolution or shipped.resolution)
    entry = f"{ldm_keys.UNET}input_blocks.0.0.weight"
    found = weights.shapes.get(entry) or weights.shapes[ldm_keys.ema_name(entry)]
    if found[0] != shipped.unet.widths[0]:
        raise UnusableFile(
            weights.path,
            f"its sizes are none of a known family's; put its configuration beside it, as {beside.name}",
        )
    config = _settled(weights, shipped, otherwise=family.prediction)
    side = family.side_if_v
    if side and (config.noise.prediction == "v" or str(side) in weights.path.stem):
        config = replace(config, resolution=side)
    return config


def _settled(weights: Weights, config: ModelConfig, otherwise: str | None) -> ModelConfig:
    """With what the file itself says of its noise: ComfyUI's and NovelAI's keys, kohya's and modelspec's metadata."""
    told = {name: value.casefold() for name, value in weights.metadata.items()}
    prediction = config.noise.prediction if config.told else None
    if prediction is None and (
        "v_pred" in weights.shapes
        or told.get("ss_v_parameterization") == "true"
        or "v" in (told.get("modelspec.prediction_type"), told.get("modelspec.predict_key"))
    ):
        prediction = "v"
    if prediction is None and "epsilon" in (told.get("modelspec.prediction_type"), told.get("modelspec.predict_key")):
        prediction = "epsilon"
    ends = config.noise.zero_terminal_snr or "ztsnr" in weights.shapes or told.get("ss_zero_terminal_snr") == "true"
    known = prediction or otherwise
    noise = replace(config.noise, prediction=known or "epsilon", zero_terminal_snr=ends)
    return replace(config, noise=noise, told=known is not None)


def family_of_folder(folder: Path) -> tuple[Family, Mapping[str, Any]]:
    """The family of a diffusers folder, and its UNet's configuration. Raises UnusableFile."""
    index = read_json(folder / "model_index.json", "this is not a diffusers folder: it has no model_index.json")
    there = [part for part in ("text_encoder", "text_encoder_2", "text_encoder_3") if _names_a_class(index.get(part))]
    if "text_encoder_3" in there or "transformer" in index or "Flux" in str(index.get("_class_name")):
        raise UnusableFile(folder, f"this is a folder for {index.get('_class_name')}, which is not supported")
    if there == ["text_encoder_2"] and "XL" in str(index.get("_class_name")):
        raise UnusableFile(folder, "this is an SDXL refiner, which cannot be trained on; use the base checkpoint")
    unet = read_json(folder / "unet" / "config.json")
    if unet.get("in_channels") != unet.get("out_channels", 4):
        raise UnusableFile(folder, "this is an inpainting or editing checkpoint, which cannot be trained on")
    if "text_encoder_2" in there:
        if "text_encoder" not in there:
            raise UnusableFile(
                folder, f"this is an {SDXL.title} checkpoint without CLIP-L, one of its two text encoders"
            )
        return SDXL, unet
    if unet.get("addition_embed_type") == "text_time":
        raise UnusableFile(folder, f"this is an {SDXL.title} checkpoint without CLIP-G, one of its two text encoders")
    text = read_json(folder / "text_encoder" / "config.json")
    return (SD1 if text.get("hidden_act") == "quick_gelu" else SD2), unet


def side_of_folder(folder: Path, unet: Mapping[str, Any]) -> int:
    """Of the pictures that a folder's UNet is made for, in pixels. Raises UnusableFile."""
    size = unet.get("sample_size", 64)
    if not isinstance(size, int) or not 1 <= size <= 512:
        raise UnusableFile(folder / "unet" / "config.json", f"unreadable (sample_size {size!r})")
    return 8 * size


def noise_of_folder(folder: Path) -> NoiseSchedule:
    """What the scheduler of a diffusers folder tells. Raises UnusableFile."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise UnusableFile(path, f"the noise schedule {config['beta_schedule']!r} is not supported")
    predictions = {"epsilon": "epsilon", "v_prediction": "v"}
    if (prediction := config.get("prediction_type", "epsilon")) not in predictions:
        raise UnusableFile(path, f"the prediction type {prediction!r} is not supported")
    return NoiseSchedule(
        steps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.00085),
        last_beta=config.get("beta_end", 0.012),
        prediction=predictions[prediction],
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )


def read_json(path: Path, otherwise: str = "the file is missing") -> dict[str, Any]:
    """A configuration file of diffusers. Raises UnusableFile; `otherwise` says what it means that there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableFile(path, otherwise) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableFile(path, f"unreadable ({error})") from error
    if not isinstance(record, dict):
        raise UnusableFile(path, "unreadable (not a JSON object)")
    return record


def _names_a_class(entry: Any) -> bool:
    return isinstance(entry, list) and any(entry)
