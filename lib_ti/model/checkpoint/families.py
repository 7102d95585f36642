"""The families of Stable Diffusion, declared: everything that differs from one to the next.

Other modules read these values instead of asking which family a checkpoint belongs to.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSpec:
    """A text encoder of a family.

    `name`: its key in embedding files. `width`, `num_layers`: of the released checkpoints. `prefix`: of its weights' names in
    LDM checkpoints. `clip_skip`: the layer that feeds the UNet, counted from the last one, which is 1. `final_layer_norm`:
    whether the encoder's final layer norm is applied to that layer's output. `openclip`: OpenCLIP instead of OpenAI's CLIP:
    other names for the weights, plain GELU, and prompts padded with token 0 instead of the end token.
    """

    name: str
    title: str
    width: int
    num_layers: int
    prefix: str
    clip_skip: int = 1
    final_layer_norm: bool = True
    openclip: bool = False


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    `encoders`: in the order in which their hidden states are concatenated. `pooled_encoder`: the one whose pooled output is an
    added condition of the UNet, next to the time ids; None if there is none. `prediction_type`: of checkpoints that do not
    state theirs; None if both types are common. `resolution_if_v`: of v-prediction checkpoints, if it differs.
    `force_zeros_for_empty_prompt`: an empty negative prompt is encoded as zeros.
    """

    name: str
    title: str
    architecture: str  # modelspec.architecture
    encoders: tuple[EncoderSpec, ...]
    prediction_type: str | None = "epsilon"
    architecture_if_v: str = ""  # if it differs
    resolution_if_v: int | None = None
    pooled_encoder: str | None = None
    force_zeros_for_empty_prompt: bool = False

    def architecture_of(self, prediction_type: str) -> str:
        """The value of `modelspec.architecture` for a checkpoint of this prediction type."""
        return self.architecture_if_v if prediction_type == "v" and self.architecture_if_v else self.architecture

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token embeddings of the released checkpoints, one for each encoder."""
        return tuple(encoder.width for encoder in self.encoders)


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    encoders=(EncoderSpec("clip_l", "CLIP-L", 768, 12, "cond_stage_model.transformer."),),
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    architecture="stable-diffusion-v2-512",
    architecture_if_v="stable-diffusion-v2-768-v",
    encoders=(EncoderSpec("clip_h", "OpenCLIP-H", 1024, 24, "cond_stage_model.model.", clip_skip=2, openclip=True),),
    prediction_type=None,
    resolution_if_v=768,
)
SDXL = Family(
    name="sdxl",
    title="SDXL",
    architecture="stable-diffusion-xl-v1-base",
    encoders=(
        EncoderSpec(
            "clip_l", "CLIP-L", 768, 12, "conditioner.embedders.0.transformer.", clip_skip=2, final_layer_norm=False
        ),
        EncoderSpec(
            "clip_g", "CLIP-G", 1280, 32, "conditioner.embedders.1.model.", clip_skip=2, final_layer_norm=False,
            openclip=True,
        ),
    ),
    pooled_encoder="clip_g",
    force_zeros_for_empty_prompt=True,
)  # fmt: skip

FAMILIES = (SD1, SD2, SDXL)


def family_titles(names: Collection[str]) -> str:
    """The titles of the families with these names, as one phrase.

    >>> family_titles(("sd1", "sdxl"))
    'Stable Diffusion 1.x and SDXL'
    """
    return " and ".join(family.title for family in FAMILIES if family.name in names)


def encoder_title(name: str) -> str:
    """The title of the text encoder that embedding files call `name`; the name itself if it is unknown."""
    encoder_titles = {encoder.name: encoder.title for family in FAMILIES for encoder in family.encoders}
    return encoder_titles.get(name, name)
