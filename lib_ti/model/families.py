"""What differs from one family of Stable Diffusion to the next. The loop never asks; it is handed one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """`encoders`: its text encoders, by the names embedding files give them; `width`: of the real checkpoints' vectors."""

    name: str
    title: str
    architecture: str  # in modelspec's terms
    encoders: tuple[str, ...]
    width: tuple[int, ...]
    learning_rate: float  # what "auto" means


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    encoders=("clip_l",),
    width=(768,),
    learning_rate=0.005,
)
