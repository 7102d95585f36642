"""What a checkpoint is, told from headers and configurations alone and without building a network.

So it can be asked in a WebUI's own process, which may lack diffusers, and at each keystroke.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

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


def _describe_folder(path: Path) -> Description:
    try:
        unet = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))
        return Description(SD1, int(unet.get("sample_size", 64)) * 8)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnusableFile(path, "this is no diffusers folder: its unet/config.json cannot be read") from error
