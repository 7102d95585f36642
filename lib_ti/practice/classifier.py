"""The classifier that scores generated images: which thing, colour, ground and style does an image show?

A small convolutional network, trained by `make` on rendered scenes, of which all of that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.practice.world import World

WEIGHTS = Path(__file__).parent / "model" / "judge.safetensors"
SIDE = 64  # pixels


class SceneClassifier(nn.Module):
    """Pixels (b, 3, 64, 64) in -1..1 to logits (b, classes) for each attribute.

    `classes`: the class names of each attribute, as in `World.classes`.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.classes = classes
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
        self.answers = nn.ModuleDict({attribute: nn.Linear(192, len(names)) for attribute, names in classes.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pixels)
        return {attribute: head(features) for attribute, head in self.answers.items()}


@dataclass(frozen=True)
class Prediction:
    """The most probable class of each attribute. `count`: "" where the world always has one thing."""

    thing: str
    colour: str
    ground: str
    style: str
    count: str = ""


def load_classifier(weights: Path = WEIGHTS, world: World = PRACTICE_WORLD) -> SceneClassifier:
    """The trained classifier of a world."""
    classifier = SceneClassifier(world.classes)
    classifier.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return classifier.eval().requires_grad_(False)


def classify(images: Sequence[Image.Image], classifier: SceneClassifier | None = None) -> list[Prediction]:
    """Classify images; they are scaled to 64×64. Without a classifier that of the practice model judges."""
    classifier = classifier or load_classifier()
    arrays = [np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) for i in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    indices = {attribute: logits.argmax(dim=1).tolist() for attribute, logits in classifier(pixels).items()}
    return [
        Prediction(**{attribute: names[indices[attribute][i]] for attribute, names in classifier.classes.items()})
        for i in range(len(images))
    ]
