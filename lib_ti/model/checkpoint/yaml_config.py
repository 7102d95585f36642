"""Read a checkpoint's architecture from its .yaml.

The format is that of CompVis' latent-diffusion and Stability AI's generative-models, which A1111 reads too: below
`model.params` stand `unet_config` (`network_config` for SDXL), `first_stage_config` and the noise schedule. The `target`
classes are not imported; only the names of SDXL's scaling and discretization classes are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib_ti.errors import UnusableFile
from lib_ti.formats.text_file import read_text
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule

MAX_BYTES = 1 << 16  # of a file; they have two or three thousand
MAX_LEVELS, MAX_BLOCKS = 16, 256  # more than any network has
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of a UNet. Tuples have one entry per resolution level, finest first."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    attention: tuple[bool, ...]  # whether the level has cross-attention
    transformer_depth: tuple[int, ...]  # transformer blocks per attention
    num_heads: tuple[int, ...]
    cross_attention_dim: int
    use_linear_projection: bool
    adm_in_channels: int = 0  # width of the added condition: pooled prompt + sinusoidal embeddings of six time ids

    def diffusers_kwargs(self, pooled_width: int = 0) -> dict[str, Any]:
        """Keyword arguments of diffusers' UNet2DConditionModel. `pooled_width`: of the pooled prompt embedding, if any."""
        added_condition = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (self.adm_in_channels - pooled_width) // 6,
            "projection_class_embeddings_input_dim": self.adm_in_channels,
        }
        return {
            **(added_condition if self.adm_in_channels else {}),
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention),
            "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in self.attention[::-1]),
            "layers_per_block": self.num_res_blocks,
            "transformer_layers_per_block": self.transformer_depth,
            "attention_head_dim": self.num_heads,  # diffusers calls the number of heads so
            "cross_attention_dim": self.cross_attention_dim,
            "use_linear_projection": self.use_linear_projection,
        }


@dataclass(frozen=True)
class VaeConfig:
    """The architecture of an autoencoder. Tuples have one entry per resolution level, finest first."""

    in_channels: int
    block_out_channels: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]  # whether the level has self-attention; the middle block always has
    latent_channels: int
    scaling_factor: float  # latents are multiplied by it so that their standard deviation is about 1

    def diffusers_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of diffusers' AutoencoderKL."""
        down = tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in self.attention)
        up = tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in self.attention[::-1])
        return {
            "in_channels": self.in_channels,
            "out_channels": self.in_channels,
            "down_block_types": down,
            "up_block_types": up,
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.num_res_blocks,
            "latent_channels": self.latent_channels,
            "scaling_factor": self.scaling_factor,
        }


@dataclass(frozen=True)
class ModelConfig:
    """The contents of a configuration file.

    `resolution`: side in pixels of the images the model was trained on. `prediction_known`: whether the file states the
    prediction type.
    """

    unet: UNetConfig
    vae: VaeConfig
    noise_schedule: NoiseSchedule
    resolution: int | None
    prediction_known: bool


def default_config(family: str) -> ModelConfig:
    """The architecture of the family's released checkpoints."""
    return read_config(CONFIGS / f"{family}.yaml")


def read_config(path: Path) -> ModelConfig:
    """Read a configuration file. Raises UnusableFile that names what is missing or unsupported."""
    try:
        params = yaml.safe_load(read_text(path, MAX_BYTES).text)["model"]["params"]
        network = params["network_config" if "network_config" in params else "unet_config"]["params"]
        vae = _vae_config(params["first_stage_config"]["params"], float(params.get("scale_factor", 0.18215)))
        size = params.get("image_size", network.get("image_size"))  # in latents
        denoiser = params.get("denoiser_config")
        schedule = _sgm_schedule(denoiser["params"], path) if denoiser else _ldm_schedule(params, path)
        prediction_known = bool(denoiser) or "parameterization" in params
        resolution = None if size is None else 8 * int(size)
        return _validated(ModelConfig(_unet_config(network), vae, schedule, resolution, prediction_known))
    except UnusableFile:
        raise
    except KeyError as error:
        raise UnusableFile(path, f"the configuration lacks {error}") from error
    except Exception as error:  # the file may hold any YAML value in place of a number
        raise UnusableFile(path, f"not a Stable Diffusion configuration ({' '.join(str(error).split())})") from error


_ZERO_TERMINAL_SNR = ("zero_terminal_snr", "rescale_betas_zero_snr", "ztsnr", "zsnr")
"""Spellings of the same switch in various programs' files."""


def _ldm_schedule(params: Mapping[str, Any], path: Path) -> NoiseSchedule:
    """The noise schedule in the notation of CompVis' latent-diffusion."""
    if (beta_schedule := params.get("beta_schedule", "linear")) != "linear":
        raise UnusableFile(path, f"the noise schedule {beta_schedule!r} is not supported")
    prediction_types = {"eps": "epsilon", "v": "v"}
    if (parameterization := params.get("parameterization", "eps")) not in prediction_types:
        raise UnusableFile(path, f"the parameterization {parameterization!r} is not supported")
    return NoiseSchedule(
        num_train_timesteps=int(params.get("timesteps", 1000)),
        beta_start=float(params.get("linear_start", 1e-4)),
        beta_end=float(params.get("linear_end", 2e-2)),
        prediction_type=prediction_types[str(parameterization)],
        zero_terminal_snr=any(bool(params.get(name)) for name in _ZERO_TERMINAL_SNR),
    )


def _sgm_schedule(params: Mapping[str, Any], path: Path) -> NoiseSchedule:
    """The noise schedule in the notation of Stability AI's generative-models."""
    scaling = str(params["scaling_config"]["target"]).rpartition(".")[2]
    prediction_types = {"EpsScaling": "epsilon", "VScaling": "v"}
    discretization = params["discretization_config"]
    kind, values = str(discretization["target"]).rpartition(".")[2], discretization.get("params") or {}
    if scaling not in prediction_types or kind not in ("LegacyDDPMDiscretization", "ZeroTerminalSNRDiscretization"):
        raise UnusableFile(path, f"the noise schedule {kind} with {scaling} is not supported")
    return NoiseSchedule(
        num_train_timesteps=int(params.get("num_idx", values.get("num_timesteps", 1000))),
        beta_start=float(values.get("linear_start", 0.00085)),
        beta_end=float(values.get("linear_end", 0.012)),
        prediction_type=prediction_types[scaling],
        zero_terminal_snr=kind.startswith("Zero") or any(bool(values.get(name)) for name in _ZERO_TERMINAL_SNR),
    )


def _validated(config: ModelConfig) -> ModelConfig:
    """The config itself. Raises ValueError if a value is out of range."""
    schedule, unet, vae = config.noise_schedule, config.unet, config.vae
    if not (1 <= schedule.num_train_timesteps <= 100_000 and 0 < schedule.beta_start <= schedule.beta_end < 1):
        raise ValueError("its noise schedule is impossible")
    if not (math.isfinite(vae.scaling_factor) and vae.scaling_factor > 0):
        raise ValueError("scale_factor is not a number above 0")
    if config.resolution is not None and not 8 <= config.resolution <= 4096:
        raise ValueError(f"image_size {config.resolution // 8} is out of range; it goes from 1 to 512")
    if max(len(unet.block_out_channels), len(vae.block_out_channels)) > MAX_LEVELS:
        raise ValueError(f"it has more than {MAX_LEVELS} levels")
    if max(sum(unet.num_res_blocks), sum(unet.transformer_depth), vae.num_res_blocks) > MAX_BLOCKS:
        raise ValueError(f"it has more than {MAX_BLOCKS} blocks")
    if any(len(sizes) != len(unet.block_out_channels) for sizes in (unet.num_res_blocks, unet.transformer_depth)):
        raise ValueError("its lists of sizes are of different lengths")
    if not 0 <= unet.adm_in_channels < 1 << 16:
        raise ValueError("adm_in_channels is out of range")
    sizes = (
        *unet.block_out_channels, *unet.num_res_blocks, *unet.transformer_depth, *unet.num_heads, *vae.block_out_channels,
    )  # fmt: skip
    if not sizes or min(sizes) < 1 or max(sizes) > 1 << 16:
        raise ValueError("its sizes are out of range")
    return config


def _unet_config(params: Mapping[str, Any]) -> UNetConfig:
    channels = tuple(int(params["model_channels"] * m) for m in [float(m) for m in params["channel_mult"]])
    blocks = params["num_res_blocks"]
    attention_resolutions = {
        int(d) for d in params["attention_resolutions"]
    }  # downsampling factors: 1 is the finest level
    depth = params.get("transformer_depth", 1)
    depths = tuple(map(int, depth)) if isinstance(depth, list) else (int(depth),) * len(channels)
    if int(params.get("transformer_depth_middle") or depths[-1]) != depths[-1]:
        raise ValueError("transformer_depth_middle differs from the last transformer_depth")
    head_channels = int(params.get("num_head_channels", -1))
    context_dim = params["context_dim"]
    return UNetConfig(
        in_channels=int(params["in_channels"]),
        out_channels=int(params["out_channels"]),
        block_out_channels=channels,
        num_res_blocks=tuple(map(int, blocks)) if isinstance(blocks, list) else (int(blocks),) * len(channels),
        attention=tuple(2**level in attention_resolutions for level in range(len(channels))),
        transformer_depth=depths,
        num_heads=tuple(c // head_channels if head_channels > 0 else int(params["num_heads"]) for c in channels),
        cross_attention_dim=int(context_dim[0] if isinstance(context_dim, list) else context_dim),
        use_linear_projection=bool(params.get("use_linear_in_transformer", False)),
        adm_in_channels=int(params.get("adm_in_channels") or 0),
    )


def _vae_config(params: Mapping[str, Any], scaling_factor: float) -> VaeConfig:
    sizes = params["ddconfig"]
    multipliers = [float(m) for m in sizes["ch_mult"]]
    attention_resolutions, resolution = set(sizes.get("attn_resolutions") or ()), int(sizes["resolution"])
    if int(params.get("embed_dim", sizes["z_channels"])) != int(sizes["z_channels"]):
        raise ValueError("embed_dim differs from z_channels")
    return VaeConfig(
        in_channels=int(sizes["in_channels"]),
        block_out_channels=tuple(int(sizes["ch"] * m) for m in multipliers),
        num_res_blocks=int(sizes["num_res_blocks"]),
        attention=tuple(resolution // 2**level in attention_resolutions for level in range(len(multipliers))),
        latent_channels=int(sizes["z_channels"]),
        scaling_factor=scaling_factor,
    )
