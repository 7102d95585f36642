"""A checkpoint, understood from its headers alone; loading it is the last thing that is done with it.

Whatever its layout, a checkpoint becomes three `Part`s, each an empty network and the weights for it by the network's
own parameter names. So a missing or misshapen weight is known, and named, before any is read.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import TensorSource, Weights
from lib_ti.model.checkpoint.families import Encoder, Family
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.memory.fp8 import packable, stored, use_packed
from lib_ti.model.memory.malloc import TrimAfter

VOCABULARY = 49408  # words of CLIP's tokenizer
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
POSITIONS = "text_model.embeddings.position_embedding.weight"


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint: its module without weights (on torch's meta device), and the weights."""

    module: torch.nn.Module
    weights: Weights

    @property
    def wanted(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights the network needs. Position numbers, which some files hold, are not among them."""
        return {name: tuple(v.shape) for name, v in self.module.state_dict().items() if v.is_floating_point()}

    def check(self, what: str) -> Part:
        """Itself, if the weights are all there and fit. Raises UnusableFile, naming what is missing."""
        if self.weights.quantised:
            raise UnusableFile(
                self.weights.path, "its weights are quantised; use the fp16 or fp32 version of the checkpoint"
            )
        if missing := [name for name in self.wanted if name not in self.weights.shapes]:
            raise UnusableFile(self.weights.path, f"its {what} lacks {some(missing)}")
        for name, shape in self.wanted.items():
            found = self.weights.shapes[name]
            if _without_ones(found) != _without_ones(shape):
                raise UnusableFile(self.weights.path, f"{name} of its {what} is {found}, but {shape} was expected")
        return self

    def load(self, dtype: torch.dtype, device: torch.device, packed: bool = False) -> torch.nn.Module:
        """The network with its weights, each read straight into its place; frozen, for inference.

        `packed`: with the weights of its blocks as eight-bit floats, see `model.storage`.
        """
        network = copy.deepcopy(self.module)  # empty, so it costs nothing; the part itself stays empty
        state, scales, sweep = {}, {}, TrimAfter()
        for name, shape in self.wanted.items():
            if packed and packable(network, name):
                state[name], scales[name] = stored(self.weights.read(name).to(device).reshape(shape))
                sweep.freed(12 * state[name].numel())  # it was fp32 on the way, three times
            else:
                state[name] = self.weights.read(name).to(device, dtype, copy=True).reshape(shape).contiguous()
        network.load_state_dict(state, strict=False, assign=True)
        use_packed(network, scales)
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:  # transformers' position numbers
                    setattr(module, name, torch.arange(buffer.numel(), device=device).view(buffer.shape))
        return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is and how to load it. `resolution`: the side of the pictures it is made for, in pixels.

    `text`: a part for each of the family's encoders. `cut`: how many of their last layers the files leave out, as nothing
    uses them. `told`: whether anything says what it predicts. `clip_skip`: the layer that someone wants the features from,
    counted from the last one, which is 1; as in the WebUIs a family's own choice is the least.
    """

    path: Path
    family: Family
    noise: NoiseSchedule
    resolution: int
    text: Mapping[str, Part]
    unet: Part
    vae: Part | None
    cut: int = 0
    told: bool = True
    clip_skip: int = 1

    def __post_init__(self) -> None:
        """The networks must speak of the same things. Raises UnusableFile."""
        latents: Any = self.vae.module.config if self.vae else None
        taken: Any = self.unet.module.config
        if self.vae and latents.latent_channels != taken.in_channels:
            raise UnusableFile(
                self.vae.weights.path,
                f"this VAE makes latents of {latents.latent_channels} channels, but the UNet takes {taken.in_channels}",
            )
        widths = {shape[1] for name, shape in self.unet.weights.shapes.items() if name.endswith("attn2.to_k.weight")}
        wanted = " and ".join(map(str, sorted(widths))) or "none"
        if widths != {sum(self.widths)}:
            given = " + ".join(map(str, self.widths))
            raise UnusableFile(
                self.path, f"its text encoder gives features of width {given}, but its UNet takes {wanted}"
            )
        if (taken.addition_embed_type is not None) != (self.family.pooled is not None):
            raise UnusableFile(self.path, f"its UNet is not that of a {self.family.title} checkpoint")

    @property
    def widths_by_encoder(self) -> dict[str, int]:
        """Lengths of an embedding's vectors, for each text encoder."""
        return {name: part.weights.shapes[TOKEN_TABLE][1] for name, part in self.text.items()}

    @property
    def widths(self) -> tuple[int, ...]:
        """The same, one after another."""
        return tuple(self.widths_by_encoder.values())

    def knows_all_words(self) -> Checkpoint:
        """Itself, if its vocabulary is CLIP's, so that any prompt can be written. Raises UnusableFile."""
        words = min(part.weights.shapes[TOKEN_TABLE][0] for part in self.text.values())
        if words < VOCABULARY:
            raise UnusableFile(self.path, f"its vocabulary has {words} words, but CLIP's has {VOCABULARY}")
        return self

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt, its start and end included."""
        return min(part.weights.shapes[POSITIONS][0] for part in self.text.values())

    @property
    def parameters(self) -> int:
        """Of the UNet."""
        return sum(math.prod(shape) for shape in self.unet.weights.shapes.values())

    def token_tables(self) -> dict[str, torch.Tensor]:
        """The vocabulary's vectors for each text encoder, (words, width) fp32."""
        return {name: part.weights.read(TOKEN_TABLE).float() for name, part in self.text.items()}

    def layer(self, encoder: Encoder) -> int:
        """The layer, among those the file has, that an encoder's features come from, counted from the last one."""
        return max(encoder.layer, self.clip_skip) - self.cut

    @property
    def layers(self) -> int:
        """Of the text encoder that has the fewest, with those left out."""
        sizes: list[Any] = [part.module.config for part in self.text.values()]
        return min(int(size.num_hidden_layers) for size in sizes) + self.cut

    def adjusted(
        self, prediction: str = "auto", zero_terminal_snr: str = "auto", clip_skip: int | None = None
    ) -> Checkpoint:
        """The same, with set by hand what its files may not tell: prediction (epsilon, v), the noise's end (yes, no), layer."""
        noise, told = self.noise, self.told
        if prediction != "auto":
            noise, told = replace(noise, prediction=prediction), True
        if zero_terminal_snr != "auto":
            noise = replace(noise, zero_terminal_snr=zero_terminal_snr == "yes")
        return replace(self, noise=noise, told=told, clip_skip=clip_skip or 1)

    def sha256(self, abandoned: Callable[[], bool] = lambda: False) -> str:
        """Of the checkpoint file; for a folder, of the UNet's. Empty if it is not wanted any more on the way."""
        digest = hashlib.sha256()
        with self.unet.weights.path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
                if abandoned():
                    return ""
        return digest.hexdigest()


def empty(build: Callable[[], Any], path: Path, what: str) -> torch.nn.Module:
    """A network without weights, made by `build`. Raises UnusableFile if no network has such sizes."""
    try:
        with torch.device("meta"):
            module: torch.nn.Module = build()
    except Exception as error:  # the libraries check sizes as they go, each in its own way
        reason = " ".join(str(error).split())
        raise UnusableFile(path, f"the sizes that are given for its {what} make no network ({reason})") from error
    return module


def text_encoder(sizes: Mapping[str, Any], path: Path, projecting: bool = False) -> torch.nn.Module:
    """An empty CLIP text encoder; `projecting`: with a projection of what it pools. Raises UnusableFile if there is none such."""
    kind = CLIPTextModelWithProjection if projecting else CLIPTextModel
    return empty(lambda: kind(CLIPTextConfig(**sizes)), path, "text encoder")


def named_part(module: torch.nn.Module, weights: Weights, places: Mapping[str, str | TensorSource], what: str) -> Part:
    """The part whose parameters stand in a file at `places`. Raises UnusableFile, naming what is missing or does not fit."""
    names = [place if isinstance(place, str) else place.name for place in places.values()]
    if missing := [name for name in dict.fromkeys(names) if name not in weights.shapes]:
        raise UnusableFile(weights.path, f"its {what} lacks {some(missing)}")
    return Part(module, weights.renamed(places)).check(what)


def some(names: Iterable[str]) -> str:
    """The first of several names, and how many more there are."""
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{listed[0]} and {len(listed) - 1} more weights"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
