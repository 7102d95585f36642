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
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.errors import UnusableFile
from lib_ti.model.families import Family
from lib_ti.model.noise import Noise
from lib_ti.model.weights import Weights

VOCABULARY = 49408  # words of CLIP's tokenizer
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


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

    def load(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """The network with its weights, each read straight into its place; frozen, for inference."""
        state = {
            name: self.weights.read(name).to(device, dtype, copy=True).reshape(shape)
            for name, shape in self.wanted.items()
        }
        network = copy.deepcopy(self.module)  # empty, so it costs nothing; the part itself stays empty
        network.load_state_dict(state, strict=False, assign=True)
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:  # transformers' position numbers
                    setattr(module, name, torch.arange(buffer.numel(), device=device).view(buffer.shape))
        return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is and how to load it. `resolution`: the side of the pictures it is made for, in pixels."""

    path: Path
    family: Family
    noise: Noise
    resolution: int
    text: Part
    unet: Part
    vae: Part | None

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
        if widths != {self.width}:
            raise UnusableFile(
                self.path, f"its text encoder gives features of width {self.width}, but its UNet takes {wanted}"
            )

    @property
    def width(self) -> int:
        """Length of one embedding vector."""
        return self.text.weights.shapes[TOKEN_TABLE][1]

    def knows_all_words(self) -> Checkpoint:
        """Itself, if its vocabulary is CLIP's, so that any prompt can be written. Raises UnusableFile."""
        if (words := self.text.weights.shapes[TOKEN_TABLE][0]) < VOCABULARY:
            raise UnusableFile(self.path, f"its vocabulary has {words} words, but CLIP's has {VOCABULARY}")
        return self

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt, its start and end included."""
        return self.text.weights.shapes["text_model.embeddings.position_embedding.weight"][0]

    @property
    def parameters(self) -> int:
        """Of the UNet."""
        return sum(math.prod(shape) for shape in self.unet.weights.shapes.values())

    def token_table(self) -> torch.Tensor:
        """The vocabulary's vectors, (words, width) fp32."""
        return self.text.weights.read(TOKEN_TABLE).float()

    def predicting(self, prediction: str) -> Checkpoint:
        """The same, with what it predicts set by hand: epsilon, v, or auto to leave it."""
        return self if prediction == "auto" else replace(self, noise=replace(self.noise, prediction=prediction))

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


def text_encoder(sizes: Mapping[str, Any], path: Path) -> torch.nn.Module:
    """An empty CLIP text encoder. Raises UnusableFile if none has such sizes."""
    return empty(lambda: CLIPTextModel(CLIPTextConfig(**sizes)), path, "text encoder")


def some(names: Iterable[str]) -> str:
    """The first of several names, and how many more there are."""
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{listed[0]} and {len(listed) - 1} more weights"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
