"""The judge: says which thing, colour, ground and style a picture of 64×64 pixels shows.

A small convolutional network that `make` trains on the drawing program's own pictures, for which all four are known.
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

from lib_ti.practice.pictures import COLOURS, GROUNDS, STYLES, THINGS

WEIGHTS = Path(__file__).parent / "model" / "judge.safetensors"
QUESTIONS: dict[str, tuple[str, ...]] = {
    "thing": tuple(THINGS),
    "colour": tuple(COLOURS),
    "ground": tuple(GROUNDS),
    "style": STYLES,
}


class Judge(nn.Module):
    """Pixels (b, 3, 64, 64) in -1..1 to a table of scores (b, answers) for each question."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, stride=2, padding=1),
                nn.SiLU(),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 192), nn.SiLU())
        self.answers = nn.ModuleDict({question: nn.Linear(192, len(of)) for question, of in QUESTIONS.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pixels)
        return {question: head(features) for question, head in self.answers.items()}


@dataclass(frozen=True)
class Verdict:
    """What a picture shows, in the words of `pictures`."""

    thing: str
    colour: str
    ground: str
    style: str


def load() -> Judge:
    """The trained judge."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return judge.eval().requires_grad_(False)


def judge(pictures: Sequence[Image.Image], model: Judge | None = None) -> list[Verdict]:
    """A verdict on each picture; other sizes are scaled to 64×64."""
    model = model or load()
    arrays = [np.asarray(p.convert("RGB").resize((64, 64), Image.Resampling.BOX), dtype=np.float32) for p in pictures]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    best = {question: scores.argmax(dim=1).tolist() for question, scores in model(pixels).items()}
    return [
        Verdict(**{question: QUESTIONS[question][best[question][i]] for question in QUESTIONS})
        for i in range(len(pictures))
    ]
