"""A checkpoint's architecture, as its .yaml tells it.

The notation is that of the configuration files of Stability AI's and CompVis' code, which A1111 reads too: `unet_config`
(`network_config` in those of SDXL), `first_stage_config` and the noise schedule below `model.params`. `target` classes are not
followed, but for the name of the one that scales what SDXL predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a UNet."""

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]  # channels at each level, finest first
    res_blocks: tuple[int, ...]  # at each level
    attention: tuple[bool, ...]  # whether a level attends to the prompt
    depth: tuple[int, ...]  # transformer blocks in each attention
    heads: tuple[int, ...]  # attention heads at each level
    context: int  # width of the text features
    linear: bool  # attention's projections are matrices rather than 1×1 convolutions
    extra: int = 0  # width of what it is told beside time and prompt: the pooled prompt, then six numbers as sinusoids

    def for_diffusers(self, pooled: int = 0) -> dict[str, Any]:
        """Keyword arguments of diffusers' UNet2DConditionModel. `pooled`: width of the pooled prompt, if it takes one."""
        told = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (self.extra - pooled) // 6,
            "projection_class_embeddings_input_dim": self.extra,
        }
        return {
            **(told if self.extra else {}),
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.widths,
            "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention),
            "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in self.attention[::-1]),
            "layers_per_block": self.res_blocks,
            "transformer_layers_per_block": self.depth,
            "attention_head_dim": self.heads,  # diffusers' name for the number of heads
            "cross_attention_dim": self.context,
            "use_linear_projection": self.linear,
        }


@dataclass(frozen=True)
class VaeConfig:
    """The sizes of an autoencoder."""

    channels: int  # of the pictures
    widths: tuple[int, ...]
    res_blocks: int
    attention: tuple[bool, ...]  # at each level, beside the one in the middle
    latent_channels: int
    scale: float  # latents are multiplied by it, so that their deviation is about 1

    @property
    def factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.widths) - 1))

    def for_diffusers(self) -> dict[str, Any]:
        """Keyword arguments of diffusers' AutoencoderKL."""
        down = tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in self.attention)
        up = tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in self.attention[::-1])
        return {
            "in_channels": self.channels,
            "out_channels": self.channels,
            "down_block_types": down,
            "up_block_types": up,
            "block_out_channels": self.widths,
            "layers_per_block": self.res_blocks,
            "latent_channels": self.latent_channels,
            "scaling_factor": self.scale,
        }


@dataclass(frozen=True)
class ModelConfig:
    """What a .yaml tells of a checkpoint."""

    unet: UNetConfig
    vae: VaeConfig
    noise: NoiseSchedule
    resolution: int | None  # pixels; the side of the pictures it was made for
    told: bool  # whether anything says what the model predicts


def shipped(family: str) -> ModelConfig:
    """The architecture of a family's real checkpoints."""
    return read(CONFIGS / f"{family}.yaml")


def read(path: Path) -> ModelConfig:
    """Read a configuration file. Raises UnusableFile, naming what is missing or not understood."""
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        network = params["network_config" if "network_config" in params else "unet_config"]["params"]
        vae = _vae(params["first_stage_config"]["params"], float(params.get("scale_factor", 0.18215)))
        size = params.get("image_size", network.get("image_size"))
        denoiser = params.get("denoiser_config")
        noise = _denoiser(denoiser["params"], path) if denoiser else _noise(params, path)
        told = bool(denoiser) or "parameterization" in params
        return _sane(ModelConfig(_unet(network), vae, noise, None if size is None else 8 * int(size), told))
    except UnusableFile:
        raise
    except KeyError as error:
        raise UnusableFile(path, f"the configuration lacks {error}") from error
    except Exception as error:  # whatever else a file may hold in place of numbers
        raise UnusableFile(path, f"not a Stable Diffusion configuration ({' '.join(str(error).split())})") from error


_ENDS_IN_NOISE = ("zero_terminal_snr", "rescale_betas_zero_snr", "ztsnr", "zsnr")


def _noise(params: Mapping[str, Any], path: Path) -> NoiseSchedule:
    """In the notation of CompVis' code."""
    if (schedule := params.get("beta_schedule", "linear")) != "linear":
        raise UnusableFile(path, f"the noise schedule {schedule!r} is not supported")
    known = {"eps": "epsilon", "v": "v"}
    if (name := params.get("parameterization", "eps")) not in known:
        raise UnusableFile(path, f"the parameterization {name!r} is not supported")
    return NoiseSchedule(
        steps=int(params.get("timesteps", 1000)),
        beta_start=float(params.get("linear_start", 1e-4)),
        last_beta=float(params.get("linear_end", 2e-2)),
        prediction=known[str(name)],
        zero_terminal_snr=any(bool(params.get(name)) for name in _ENDS_IN_NOISE),
    )


def _denoiser(params: Mapping[str, Any], path: Path) -> NoiseSchedule:
    """In the notation of Stability AI's generative-models."""
    scaling = str(params["scaling_config"]["target"]).rpartition(".")[2]
    known = {"EpsScaling": "epsilon", "VScaling": "v"}
    schedule = params["discretization_config"]
    kind, numbers = str(schedule["target"]).rpartition(".")[2], schedule.get("params") or {}
    if scaling not in known or kind not in ("LegacyDDPMDiscretization", "ZeroTerminalSNRDiscretization"):
        raise UnusableFile(path, f"the noise schedule {kind} with {scaling} is not supported")
    return NoiseSchedule(
        steps=int(params.get("num_idx", numbers.get("num_timesteps", 1000))),
        beta_start=float(numbers.get("linear_start", 0.00085)),
        last_beta=float(numbers.get("linear_end", 0.012)),
        prediction=known[scaling],
        zero_terminal_snr=kind.startswith("Zero") or any(bool(numbers.get(name)) for name in _ENDS_IN_NOISE),
    )


def _sane(config: ModelConfig) -> ModelConfig:
    """Itself, if its numbers are possible at all. Raises ValueError."""
    noise, levels = config.noise, len(config.unet.widths)
    if not (1 <= noise.steps <= 100_000 and 0 < noise.beta_start <= noise.last_beta < 1):
        raise ValueError("its noise schedule is impossible")
    if not (math.isfinite(config.vae.scale) and config.vae.scale > 0):
        raise ValueError("scale_factor is not a number above 0")
    if config.resolution is not None and not 8 <= config.resolution <= 4096:
        raise ValueError(f"image_size {config.resolution // 8} is out of range; it goes from 1 to 512")
    if any(len(sizes) != levels for sizes in (config.unet.res_blocks, config.unet.depth)):
        raise ValueError("its lists of sizes are of different lengths")
    if not 0 <= config.unet.extra < 1 << 16:
        raise ValueError("adm_in_channels is out of range")
    counts = (*config.unet.widths, *config.unet.res_blocks, *config.unet.depth, *config.unet.heads, *config.vae.widths)
    if not counts or min(counts) < 1 or max(counts) > 1 << 16:
        raise ValueError("its sizes are out of range")
    return config


def _unet(params: Mapping[str, Any]) -> UNetConfig:
    multipliers = [float(m) for m in params["channel_mult"]]
    widths = tuple(int(params["model_channels"] * m) for m in multipliers)
    blocks = params["num_res_blocks"]
    reached = {int(d) for d in params["attention_resolutions"]}  # as reductions: 1 is the finest level
    depth = params.get("transformer_depth", 1)
    depths = tuple(map(int, depth)) if isinstance(depth, list) else (int(depth),) * len(widths)
    if int(params.get("transformer_depth_middle") or depths[-1]) != depths[-1]:
        raise ValueError("transformer_depth_middle differs from the last transformer_depth")
    head_width = int(params.get("num_head_channels", -1))
    context = params["context_dim"]
    return UNetConfig(
        in_channels=int(params["in_channels"]),
        out_channels=int(params["out_channels"]),
        widths=widths,
        res_blocks=tuple(map(int, blocks)) if isinstance(blocks, list) else (int(blocks),) * len(widths),
        attention=tuple(2**level in reached for level in range(len(widths))),
        depth=depths,
        heads=tuple(w // head_width if head_width > 0 else int(params["num_heads"]) for w in widths),
        context=int(context[0] if isinstance(context, list) else context),
        linear=bool(params.get("use_linear_in_transformer", False)),
        extra=int(params.get("adm_in_channels") or 0),
    )


def _vae(params: Mapping[str, Any], scale: float) -> VaeConfig:
    sizes = params["ddconfig"]
    multipliers = [float(m) for m in sizes["ch_mult"]]
    reached, resolution = set(sizes.get("attn_resolutions") or ()), int(sizes["resolution"])
    if int(params.get("embed_dim", sizes["z_channels"])) != int(sizes["z_channels"]):
        raise ValueError("embed_dim differs from z_channels")
    return VaeConfig(
        channels=int(sizes["in_channels"]),
        widths=tuple(int(sizes["ch"] * m) for m in multipliers),
        res_blocks=int(sizes["num_res_blocks"]),
        attention=tuple(resolution // 2**level in reached for level in range(len(multipliers))),
        latent_channels=int(sizes["z_channels"]),
        scale=scale,
    )
