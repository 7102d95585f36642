"""The classifier that scores generated images: which thing, colour, ground and style does an image show?

A small convolutional network, trained by `make` on rendered scenes, of which all four are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lib_ti.practice.grounds import GROUNDS
from lib_ti.practice.scenes import STYLES
from lib_ti.practice.things import COLOURS, THINGS

WEIGHTS = Path(__file__).parent / "model" / "judge.safetensors"
SIDE = 64  # pixels
CLASSES: dict[str, tuple[str, ...]] = {
    "thing": tuple(THINGS),
    "colour": tuple(COLOURS),
    "ground": tuple(GROUNDS),
    "style": STYLES,
}
"""The class names of each attribute of a `Scene`."""


class SceneClassifier(nn.Module):
    """Pixels (b, 3, 64, 64) in -1..1 to logits (b, classes) for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels, out_channels in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, padding=1),
                nn.GroupNorm(8, out_channels),
                nn.SiLU(),
                nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1),
                nn.SiLU(),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 192), nn.SiLU())
        # "answers" is in the keys of the stored weights
        self.answers = nn.ModuleDict({attribute: nn.Linear(192, len(names)) for attribute, names in CLASSES.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pixels)
        return {attribute: head(features) for attribute, head in self.answers.items()}


@dataclass(frozen=True)
class Prediction:
    """The most probable class of each attribute."""

    thing: str
    colour: str
    ground: str
    style: str


def load_classifier() -> SceneClassifier:
    """The trained classifier."""
    classifier = SceneClassifier()
    classifier.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return classifier.eval().requires_grad_(False)


def classify(images: Sequence[Image.Image], classifier: SceneClassifier | None = None) -> list[Prediction]:
    """Classify images; they are scaled to 64×64."""
    classifier = classifier or load_classifier()
    arrays = [np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) for i in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    indices = {attribute: logits.argmax(dim=1).tolist() for attribute, logits in classifier(pixels).items()}
    return [
        Prediction(**{attribute: names[indices[attribute][i]] for attribute, names in CLASSES.items()})
        for i in range(len(images))
    ]
