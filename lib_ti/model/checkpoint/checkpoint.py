"""A checkpoint described by its headers alone; its weights are read last.

Whatever its file layout, a checkpoint becomes `Component`s: empty networks, and weights under the networks' own parameter
names. So missing or misshapen weights are found, and named in the error, before any tensor is read.
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
from lib_ti.model.checkpoint.families import EncoderSpec, Family
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.memory.fp8 import is_quantizable, quantize, use_fp8_layers
from lib_ti.model.memory.malloc import TrimAfter

VOCABULARY_SIZE = 49408  # of CLIP's tokenizer
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
POSITION_EMBEDDING = "text_model.embeddings.position_embedding.weight"


@dataclass(frozen=True)
class Component:
    """One network of a checkpoint: its module on torch's meta device, and its weights in the file."""

    module: torch.nn.Module
    weights: Weights

    @property
    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights the module needs: all but position ids, which only some files contain."""
        return {name: tuple(v.shape) for name, v in self.module.state_dict().items() if v.is_floating_point()}

    def validated(self, title: str) -> Component:
        """The component itself. Raises UnusableFile if a weight is missing, misshapen or quantized; `title` for the message."""
        if self.weights.quantised:
            raise UnusableFile(
                self.weights.path, "its weights are quantised; use the fp16 or fp32 version of the checkpoint"
            )
        if missing := [name for name in self.expected_shapes if name not in self.weights.shapes]:
            raise UnusableFile(self.weights.path, f"its {title} lacks {summarize_names(missing)}")
        for name, expected in self.expected_shapes.items():
            shape = self.weights.shapes[name]
            if _without_ones(shape) != _without_ones(expected):
                raise UnusableFile(self.weights.path, f"{name} of its {title} is {shape}, but {expected} was expected")
        return self

    def load(self, dtype: torch.dtype, device: torch.device, fp8: bool = False) -> torch.nn.Module:
        """The network with its weights, each tensor read straight to the device; frozen, in eval mode.

        `fp8`: quantize the blocks' weights to FP8 one by one, so that they are never in memory at full precision.
        """
        network = copy.deepcopy(self.module)  # on the meta device, so it costs nothing; `self.module` stays empty
        state, scales, trimmer = {}, {}, TrimAfter()
        for name, shape in self.expected_shapes.items():
            if fp8 and is_quantizable(network, name):
                state[name], scales[name] = quantize(self.weights.read(name).to(device).reshape(shape))
                trimmer.freed(12 * state[name].numel())  # three fp32 temporaries
            else:
                state[name] = self.weights.read(name).to(device, dtype, copy=True).reshape(shape).contiguous()
        network.load_state_dict(state, strict=False, assign=True)
        use_fp8_layers(network, scales)
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:  # transformers' position ids
                    setattr(module, name, torch.arange(buffer.numel(), device=device).view(buffer.shape))
        return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Checkpoint:
    """The networks of a checkpoint and how to use them.

    `resolution`: side in pixels of the images it was trained on. `text_encoders`: one for each of the family's encoders.
    `layers_removed`: how many unused last layers of the text encoder the files leave out. `prediction_known`: whether the files
    or the user state the prediction type. `clip_skip`: the text encoder layer the user asks for, counted from the last one,
    which is 1; as in the WebUIs, never a later one than the family's own.
    """

    path: Path
    family: Family
    noise_schedule: NoiseSchedule
    resolution: int
    text_encoders: Mapping[str, Component]
    unet: Component
    vae: Component | None
    layers_removed: int = 0
    prediction_known: bool = True
    clip_skip: int = 1

    def __post_init__(self) -> None:
        """Raises UnusableFile if the networks do not fit each other."""
        vae_config: Any = self.vae.module.config if self.vae else None
        unet_config: Any = self.unet.module.config
        if self.vae and vae_config.latent_channels != unet_config.in_channels:
            raise UnusableFile(
                self.vae.weights.path,
                f"this VAE makes latents of {vae_config.latent_channels} channels, "
                f"but the UNet takes {unet_config.in_channels}",
            )
        context_widths = {
            shape[1] for name, shape in self.unet.weights.shapes.items() if name.endswith("attn2.to_k.weight")
        }
        if context_widths != {sum(self.widths)}:
            encoder_widths = " + ".join(map(str, self.widths))
            unet_widths = " and ".join(map(str, sorted(context_widths))) or "none"
            raise UnusableFile(
                self.path,
                f"its text encoder gives features of width {encoder_widths}, but its UNet takes {unet_widths}",
            )
        if (unet_config.addition_embed_type is not None) != (self.family.pooled_encoder is not None):
            raise UnusableFile(self.path, f"its UNet is not that of a {self.family.title} checkpoint")

    @property
    def widths_by_encoder(self) -> dict[str, int]:
        """Widths of the token embeddings, by text encoder."""
        return {name: component.weights.shapes[TOKEN_EMBEDDING][1] for name, component in self.text_encoders.items()}

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the token embeddings, in the order of the encoders."""
        return tuple(self.widths_by_encoder.values())

    def require_full_vocabulary(self) -> Checkpoint:
        """The checkpoint itself. Raises UnusableFile if its vocabulary is smaller than CLIP's."""
        size = min(component.weights.shapes[TOKEN_EMBEDDING][0] for component in self.text_encoders.values())
        if size < VOCABULARY_SIZE:
            raise UnusableFile(self.path, f"its vocabulary has {size} words, but CLIP's has {VOCABULARY_SIZE}")
        return self

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt, start and end token included."""
        return min(component.weights.shapes[POSITION_EMBEDDING][0] for component in self.text_encoders.values())

    @property
    def unet_parameters(self) -> int:
        """Number of the UNet's parameters."""
        return sum(math.prod(shape) for shape in self.unet.weights.shapes.values())

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """The token embedding matrix (vocabulary, width) fp32 of each text encoder, read from the file."""
        return {name: encoder.weights.read(TOKEN_EMBEDDING).float() for name, encoder in self.text_encoders.items()}

    def hidden_layer(self, encoder: EncoderSpec) -> int:
        """The layer whose output is used, counted from the last one that the file has, which is 1."""
        return max(encoder.clip_skip, self.clip_skip) - self.layers_removed

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the text encoder that has the fewest, `layers_removed` included."""
        configs: list[Any] = [component.module.config for component in self.text_encoders.values()]
        return min(int(config.num_hidden_layers) for config in configs) + self.layers_removed

    def with_overrides(
        self, prediction_type: str = "auto", zero_terminal_snr: str = "auto", clip_skip: int | None = None
    ) -> Checkpoint:
        """A copy with the user's settings instead of what the files state; "auto" (None for clip skip) keeps the files' value.

        `prediction_type`: "epsilon" or "v". `zero_terminal_snr`: "yes" or "no".
        """
        schedule, known = self.noise_schedule, self.prediction_known
        if prediction_type != "auto":
            schedule, known = replace(schedule, prediction_type=prediction_type), True
        if zero_terminal_snr != "auto":
            schedule = replace(schedule, zero_terminal_snr=zero_terminal_snr == "yes")
        return replace(self, noise_schedule=schedule, prediction_known=known, clip_skip=clip_skip or 1)

    def sha256(self, cancelled: Callable[[], bool] = lambda: False) -> str:
        """Hex digest of the checkpoint file; of a folder, of the UNet's file. Empty if cancelled, which is polled."""
        digest = hashlib.sha256()
        with self.unet.weights.path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
                if cancelled():
                    return ""
        return digest.hexdigest()


def build_on_meta(build: Callable[[], Any], path: Path, title: str) -> torch.nn.Module:
    """The network that `build` constructs, without weights. Raises UnusableFile if the configured sizes are invalid."""
    try:
        with torch.device("meta"):
            module: torch.nn.Module = build()
    except Exception as error:  # each library class validates its sizes in its own way
        reason = " ".join(str(error).split())
        raise UnusableFile(path, f"the sizes that are given for its {title} make no network ({reason})") from error
    return module


class _WrappedTextModel(torch.nn.Module):
    """A `CLIPTextModel` of transformers 5 with the structure that it has had until then, and that checkpoints have."""

    def __init__(self, text_model: torch.nn.Module) -> None:
        super().__init__()
        self.text_model, self.config = text_model, text_model.config

    def get_input_embeddings(self) -> torch.nn.Module:
        embedding: torch.nn.Module = self.text_model.get_input_embeddings()  # type: ignore[operator]
        return embedding

    def set_input_embeddings(self, embedding: torch.nn.Module) -> None:
        self.text_model.set_input_embeddings(embedding)  # type: ignore[operator]


def build_text_encoder(config: Mapping[str, Any], path: Path, projection: bool = False) -> torch.nn.Module:
    """A CLIP text encoder without weights; `projection`: with one for the pooled output. Raises UnusableFile."""

    def build() -> torch.nn.Module:
        model_class = CLIPTextModelWithProjection if projection else CLIPTextModel
        model: torch.nn.Module = model_class(CLIPTextConfig(**config))
        return model if hasattr(model, "text_model") else _WrappedTextModel(model)

    return build_on_meta(build, path, "text encoder")


def component_from_keys(
    module: torch.nn.Module, weights: Weights, keys: Mapping[str, str | TensorSource], title: str
) -> Component:
    """The component whose parameters stand in the file under `keys`. Raises UnusableFile that names what is missing."""
    names = [key if isinstance(key, str) else key.name for key in keys.values()]
    if missing := [name for name in dict.fromkeys(names) if name not in weights.shapes]:
        raise UnusableFile(weights.path, f"its {title} lacks {summarize_names(missing)}")
    return Component(module, weights.renamed(keys)).validated(title)


def summarize_names(names: Iterable[str]) -> str:
    """The first of the weights' names and the number of the others."""
    first, *others = names
    return f"{first} and {len(others)} more weights" if others else first


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """1×1 convolutions and matrices are interchangeable."""
    return tuple(size for size in shape if size != 1)
