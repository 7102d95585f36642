"""What differs from one family of Stable Diffusion to the next. The loop never asks; it is handed one of these."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """A text encoder of a family.

    `name`: as embedding files call it. `width`, `layers`: of the real checkpoints. `prefix`: before its weights' names in
    the original layout. `layer`: whose output the UNet gets, counted from the last one, which is 1; `normed`: after the
    encoder's final layer norm. `openclip`: LAION's retrained CLIP, which has other names for its weights, a plain GELU,
    and fills prompts up with the token 0 rather than with their end.
    """

    name: str
    title: str
    width: int
    layers: int
    prefix: str
    layer: int = 1
    normed: bool = True
    openclip: bool = False


@dataclass(frozen=True)
class Family:
    """`encoders`: in the order in which their features stand side by side.

    `pooled`: the encoder whose summary of the whole prompt the UNet gets too, beside the picture's size and crop. `prediction`:
    what its checkpoints predict where nothing tells; None where both kinds are common. `learning_rate`: what "auto" means.
    `side_if_v`: of the pictures that v-predicting ones are made for, where it is another. `force_zeros_for_empty_prompt`: where the negative
    prompt is empty, the UNet gets zeros for it.
    """

    name: str
    title: str
    architecture: str  # in modelspec's terms
    encoders: tuple[Encoder, ...]
    learning_rate: float
    prediction: str | None = "epsilon"
    architecture_if_v: str = ""  # where it is another
    side_if_v: int | None = None
    pooled: str | None = None
    force_zeros_for_empty_prompt: bool = False

    def architecture_of(self, prediction: str) -> str:
        return self.architecture_if_v if prediction == "v" and self.architecture_if_v else self.architecture

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the real checkpoints' vectors."""
        return tuple(encoder.width for encoder in self.encoders)


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    encoders=(Encoder("clip_l", "CLIP-L", 768, 12, "cond_stage_model.transformer."),),
    learning_rate=0.005,
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    architecture="stable-diffusion-v2-512",
    architecture_if_v="stable-diffusion-v2-768-v",
    encoders=(Encoder("clip_h", "OpenCLIP-H", 1024, 24, "cond_stage_model.model.", layer=2, openclip=True),),
    learning_rate=0.005,
    prediction=None,
    side_if_v=768,
)
SDXL = Family(
    name="sdxl",
    title="SDXL",
    architecture="stable-diffusion-xl-v1-base",
    encoders=(
        Encoder("clip_l", "CLIP-L", 768, 12, "conditioner.embedders.0.transformer.", layer=2, normed=False),
        Encoder("clip_g", "CLIP-G", 1280, 32, "conditioner.embedders.1.model.", layer=2, normed=False, openclip=True),
    ),
    learning_rate=0.0025,
    pooled="clip_g",
    force_zeros_for_empty_prompt=True,
)

FAMILIES = (SD1, SD2, SDXL)


def titles(names: Collection[str]) -> str:
    """Families by their names, in the users' terms.

    >>> titles(("sd1", "sdxl"))
    'Stable Diffusion 1.x and SDXL'
    """
    return " and ".join(family.title for family in FAMILIES if family.name in names)


def encoder_title(name: str) -> str:
    """A text encoder by its name in files, in the users' terms."""
    known = {encoder.name: encoder.title for family in FAMILIES for encoder in family.encoders}
    return known.get(name, name)
