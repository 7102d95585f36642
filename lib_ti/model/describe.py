"""What a checkpoint is, told from headers and configurations alone and without building a network.

So it can be asked in a WebUI's own process, which may lack diffusers, and at each keystroke.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.model import config as configs
from lib_ti.model import layout
from lib_ti.model.config import ModelConfig
from lib_ti.model.families import SD1, Family
from lib_ti.model.sniff import family_of
from lib_ti.model.weights import Weights, open_weights


@dataclass(frozen=True)
class Description:
    """`resolution`: the side of the pictures it is made for, in pixels."""

    family: Family
    resolution: int


def describe(path: Path) -> Description:
    """The description of a checkpoint file or a diffusers folder. Raises UnusableFile for whatever cannot be trained on."""
    if path.is_dir():
        return _describe_folder(path)
    weights = open_weights(path)
    family = family_of(weights)
    return Description(family, config_of(weights, family).resolution)


def config_of(weights: Weights, family: Family) -> ModelConfig:
    """From the .yaml beside the file; a real checkpoint needs none. Raises UnusableFile where one would."""
    beside = weights.path.with_suffix(".yaml")
    if beside.exists():
        return configs.read(beside)
    config = configs.shipped(family.name)
    entry = f"{layout.UNET}input_blocks.0.0.weight"
    found = weights.shapes.get(entry) or weights.shapes[layout.ema_name(entry)]
    if found[0] != config.unet.widths[0]:
        raise UnusableFile(
            weights.path,
            f"its sizes are none of a known family's; put its configuration beside it, as {beside.name}",
        )
    return config


def check_folder(path: Path) -> dict[str, Any]:
    """The configuration of a diffusers folder's UNet, if it is that of a model that can be trained on. Raises UnusableFile."""
    index = read_json(path / "model_index.json", "this is not a diffusers folder: it has no model_index.json")
    if "text_encoder_2" in index or "text_encoder_3" in index:
        raise UnusableFile(
            path, f"{index.get('_class_name')} is not supported yet; use a Stable Diffusion 1.x checkpoint"
        )
    unet = read_json(path / "unet" / "config.json")
    if unet.get("in_channels") != 4:
        raise UnusableFile(path, "this is an inpainting or editing checkpoint, which cannot be trained on")
    if read_json(path / "text_encoder" / "config.json").get("hidden_act") != "quick_gelu":
        raise UnusableFile(path, "its text encoder is not Stable Diffusion 1's; that is not supported yet")
    return unet


def read_json(path: Path, otherwise: str = "the file is missing") -> dict[str, Any]:
    """A JSON object in a file. Raises UnusableFile."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableFile(path, otherwise) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableFile(path, f"unreadable ({error})") from error
    if not isinstance(record, dict):
        raise UnusableFile(path, "unreadable (not a JSON object)")
    return record


def _describe_folder(path: Path) -> Description:
    unet = check_folder(path)
    try:
        return Description(SD1, int(unet.get("sample_size", 64)) * 8)
    except (ValueError, TypeError) as error:
        raise UnusableFile(path / "unet" / "config.json", f"unreadable ({error})") from error
