"""Small checkpoints of random weights in the original layout: real in every respect but size and sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from reference.ldm import AutoencoderKL, CLIPTextModel, UNetModel
from reference.openclip import TextTransformer

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model.transformer."}
PREFIXES_OF = {
    "sd1": PREFIXES,
    "sd2": PREFIXES | {"text": "cond_stage_model.model."},
    "sdxl": PREFIXES | {"text": "conditioner.embedders.0.transformer.", "second": "conditioner.embedders.1.model."},
}


@dataclass(frozen=True)
class Sizes:
    """`unet` and `vae` are the `params` and the `ddconfig` of a .yaml; the text encoder is as wide as the UNet's context.

    `second`: width, layers, and width of the projection, of a second text encoder; the two together are as wide then.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_layers: int
    image_size: int  # of latents
    parameterization: str = "eps"
    scale_factor: float = 0.18215
    vocabulary: int = 49408
    family: str = "sd1"
    second: tuple[int, int, int] | None = None

    @property
    def width(self) -> int:
        """Length of one embedding vector, for the first text encoder."""
        return self.unet["context_dim"] - (self.second[0] if self.second else 0)


_LATENTS = {"in_channels": 4, "out_channels": 4}
_PICTURES = {"z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3}

SIZES = {
    # The least that is like the real one, for tests that train.
    "small": Sizes(
        unet={
            **_LATENTS, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
            "attention_resolutions": [2, 1], "num_heads": 4, "context_dim": 64,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []},
        text_layers=1,
        image_size=8,
    ),
    # All that v-predicting models do otherwise: heads by width, matrices as projections, deep transformers.
    "v": Sizes(
        unet={
            **_LATENTS, "model_channels": 32, "channel_mult": [1, 2, 3], "num_res_blocks": [1, 2, 1],
            "attention_resolutions": [4, 2], "num_head_channels": 16, "context_dim": 96, "transformer_depth": 2,
            "use_linear_in_transformer": True,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 2, 3], "num_res_blocks": 2, "attn_resolutions": [64]},
        text_layers=2,
        image_size=16,
        parameterization="v",
        scale_factor=0.13025,
    ),
    # Attention at some levels only, with a gap.
    "deep": Sizes(
        unet={
            **_LATENTS, "model_channels": 32, "channel_mult": [1, 1, 2, 3], "num_res_blocks": 2,
            "attention_resolutions": [8, 2], "num_heads": 2, "context_dim": 128,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 2, 2, 3], "num_res_blocks": 1, "attn_resolutions": [128, 32]},
        text_layers=3,
        image_size=8,
    ),
    # A single level: nothing goes down or up.
    "flat": Sizes(
        unet={
            **_LATENTS, "model_channels": 96, "channel_mult": [1], "num_res_blocks": 3,
            "attention_resolutions": [1], "num_head_channels": 48, "context_dim": 160,
        },
        vae={**_PICTURES, "ch": 64, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [256]},
        text_layers=1,
        image_size=8,
    ),
    # Attention in the middle only; widths that go up and down.
    "middle": Sizes(
        unet={
            **_LATENTS, "model_channels": 64, "channel_mult": [1, 1], "num_res_blocks": 1,
            "attention_resolutions": [], "num_heads": 8, "context_dim": 64, "use_linear_in_transformer": True,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 2, 1, 3], "num_res_blocks": 2, "attn_resolutions": []},
        text_layers=2,
        image_size=8,
    ),
    # Stable Diffusion 2: OpenCLIP, matrices as projections.
    "sd2": Sizes(
        unet={
            **_LATENTS, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
            "attention_resolutions": [2, 1], "num_head_channels": 16, "context_dim": 96, "use_linear_in_transformer": True,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []},
        text_layers=3,
        image_size=8,
        family="sd2",
    ),
    # SDXL: two text encoders, the UNet told of the whole prompt, the picture's size and its cut.
    "sdxl": Sizes(
        unet={
            **_LATENTS, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
            "attention_resolutions": [2], "num_head_channels": 16, "context_dim": 64 + 96,
            "use_linear_in_transformer": True, "transformer_depth": [1, 2], "num_classes": "sequential",
            "adm_in_channels": 80 + 6 * 32,
        },
        vae={**_PICTURES, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []},
        text_layers=2,
        image_size=8,
        scale_factor=0.13025,
        family="sdxl",
        second=(96, 3, 80),
    ),
}  # fmt: skip


class Networks(NamedTuple):
    unet: UNetModel
    vae: AutoencoderKL
    text: CLIPTextModel | TextTransformer
    second: TextTransformer | None = None

    def rounded(self, dtype: torch.dtype) -> Networks:
        """The same in fp32, after a stay in `dtype`, as weights are after they were in a file."""
        return Networks(*(network and network.to(dtype).float() for network in self))

    def state(self, family: str = "sd1") -> dict[str, Tensor]:
        """The weights under their names in a checkpoint."""
        parts = {part: network for part, network in self._asdict().items() if network is not None}
        return {PREFIXES_OF[family][part] + k: v for part, n in parts.items() for k, v in n.state_dict().items()}


def empty(sizes: Sizes) -> Networks:
    """The networks as names and shapes only."""
    with torch.device("meta"):
        return Networks(
            UNetModel(**sizes.unet),
            AutoencoderKL(**sizes.vae),
            (TextTransformer if sizes.family == "sd2" else CLIPTextModel)(
                sizes.width, sizes.text_layers, sizes.vocabulary
            ),
            sizes.second and TextTransformer(*sizes.second[:2], sizes.vocabulary, projection=sizes.second[2]),
        )


def build(sizes: Sizes, seed: int = 0) -> Networks:
    """The networks, with random weights that keep every signal at about unit size."""
    networks = empty(sizes)
    generator = torch.Generator().manual_seed(seed)
    for network in filter(None, networks):
        network.to_empty(device="cpu").requires_grad_(False).eval()
        for module in network.modules():
            _fill(module, generator)
    last = networks.text.ln_final if sizes.family == "sd2" else networks.text.text_model["final_layer_norm"]
    last.bias += 0.1  # hosts divide by the features' mean; about 0 will not do
    moments, latents = networks.vae.quant_conv, sizes.vae["z_channels"]
    moments.weight[:latents] /= sizes.scale_factor
    moments.bias[latents:] -= 4  # a narrow posterior, as the real ones are
    return networks


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the module's own weights; none is left at a value that would hide an exchange."""
    for name, value in module.named_parameters(recurse=False):
        if isinstance(module, nn.Embedding):
            value.normal_(0, 0.02, generator=generator)  # as in CLIP
        elif value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
            value.normal_(float(name == "weight"), 0.1, generator=generator)


def config(sizes: Sizes) -> dict[str, Any]:
    """The configuration, with all that the original ones hold."""
    unet = {"image_size": 32, **sizes.unet, "use_spatial_transformer": True, "use_checkpoint": True, "legacy": False}
    params = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": sizes.image_size,
        "channels": sizes.unet["in_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/simple_loss_ema",
        "scale_factor": sizes.scale_factor,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": sizes.vae["z_channels"],
                "monitor": "val/rec_loss",
                "ddconfig": {"double_z": True, **sizes.vae, "dropout": 0.0},
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }
    if sizes.parameterization != "eps":  # which is what its absence means
        params["parameterization"] = sizes.parameterization
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    if sizes.family == "sd2":
        params["cond_stage_config"] = {
            "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", "params": {"freeze": True, "layer": "penultimate"},
        }  # fmt: skip
    if sizes.family == "sdxl":
        params, target = _as_stability_writes_it(params), "sgm.models.diffusion.DiffusionEngine"
    return {"model": {"base_learning_rate": 1.0e-04, "target": target, "params": params}}


def _as_stability_writes_it(params: dict[str, Any]) -> dict[str, Any]:
    """The configuration in the notation of generative-models."""
    modules = "sgm.modules.diffusionmodules."
    scaling = "VScaling" if params.get("parameterization") == "v" else "EpsScaling"
    unet = {k: v for k, v in params["unet_config"]["params"].items() if k != "image_size"}
    return {
        "scale_factor": params["scale_factor"],
        "disable_first_stage_autocast": True,
        "image_size": params["image_size"],  # which the real one does not tell
        "denoiser_config": {
            "target": f"{modules}denoiser.DiscreteDenoiser",
            "params": {
                "num_idx": 1000,
                "weighting_config": {"target": f"{modules}denoiser_weighting.EpsWeighting"},
                "scaling_config": {"target": f"{modules}denoiser_scaling.{scaling}"},
                "discretization_config": {"target": f"{modules}discretizer.LegacyDDPMDiscretization"},
            },
        },
        "network_config": {"target": f"{modules}openaimodel.UNetModel", "params": unet},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner"},
        "first_stage_config": {
            **params["first_stage_config"],
            "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
        },
    }


def write_checkpoint(
    path: Path,
    sizes: Sizes,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    *,
    ema_only: bool = False,
    without_vae: bool = False,
    old_text_names: bool = False,
    extra_keys: bool = True,
    beside: Mapping[str, Any] | None = None,
    with_yaml: bool = True,
) -> Path:
    """Write the checkpoint, a .safetensors or a .ckpt as `path` ends, and its .yaml; returns `path`.

    `ema_only`: the UNet is there as its moving average alone. `old_text_names`: without `text_model.`, as early ones have them.
    `extra_keys`: also what else training leaves in a file. `beside`: what a .ckpt's record holds besides the weights.
    """
    networks = build(sizes, seed)
    state = {name: value.to(dtype) for name, value in networks.state(sizes.family).items()}
    unet = [name for name in state if name.startswith(PREFIXES["unet"])]
    if ema_only:
        state |= {_average(name): state.pop(name) for name in unet}
    if without_vae:
        state = {name: value for name, value in state.items() if not name.startswith(PREFIXES["vae"])}
    if extra_keys:
        state |= _left_by_training()
        if not ema_only:
            state |= {_average(name): torch.zeros_like(state[name]) for name in unet}
    if old_text_names:
        state = {name.replace(".text_model.", "."): value for name, value in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state, **(beside or {})}, path)
    else:
        save_file(state, path)
    if with_yaml:
        path.with_suffix(".yaml").write_text(yaml.safe_dump(config(sizes), sort_keys=False))
    return path


def _average(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _left_by_training() -> dict[str, Tensor]:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return {
        "betas": betas,
        "alphas_cumprod": (1 - betas).cumprod(0),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        PREFIXES["text"] + "text_model.embeddings.position_ids": torch.arange(77)[None],
    }
