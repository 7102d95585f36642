"""Small models of random weights as diffusers folders, written by diffusers and transformers themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKENIZER = Path(__file__).parents[2] / "lib_ti" / "model" / "prompt" / "clip_vocab"


class Folder(NamedTuple):
    path: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel


def write_folder(
    path: Path,
    vocabulary: int = 49408,
    dtype: torch.dtype = torch.float32,
    scheduler: Any = None,
    safe_serialization: bool = True,
    **saving: Any,
) -> Folder:
    """Write the folder; returns it with the networks that are in it, in fp32.

    `scheduler`: changes to the scheduler's settings. `safe_serialization` and `saving` (`variant`, `max_shard_size`) are
    save_pretrained's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="quick_gelu",
            )
        )
    for name, network in {"unet": unet, "vae": vae, "text_encoder": text}.items():
        network.requires_grad_(False).eval().to(dtype)
        network.save_pretrained(path / name, safe_serialization=safe_serialization, **saving)
        network.float()
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, **(scheduler or {})
    ).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return Folder(path, unet, vae, text)


class Pipeline(NamedTuple):
    """A folder that was written by a pipeline's own `save_pretrained`."""

    path: Path
    kind: Any

    def pipeline(self) -> Any:
        return self.kind.from_pretrained(self.path, local_files_only=True, **_WITHOUT_SAFETY[self.kind])


_WITHOUT_SAFETY: dict[Any, dict[str, Any]] = {
    StableDiffusionPipeline: {"safety_checker": None, "requires_safety_checker": False},
    StableDiffusionXLPipeline: {"add_watermarker": False},
}


def write_sd2_folder(path: Path, scheduler: dict[str, Any] | None = None, networks: Any = None) -> Pipeline:
    """A Stable Diffusion 2; of `networks` (a loaded model) if there are any, the text encoder's unused layer cut off."""
    text = _encoder(CLIPTextModel, 96, 2)
    if networks:
        text = networks.prompt_encoder.encoders["clip_h"].model
        del text.text_model.encoder.layers[-1]
        text.config.num_hidden_layers -= 1
    return _write(
        path, StableDiffusionPipeline, _unet(networks, 96), _vae(networks, 0.18215), scheduler, text_encoder=text
    )


def write_sdxl_folder(path: Path, scheduler: dict[str, Any] | None = None, networks: Any = None) -> Pipeline:
    """An SDXL; of `networks` (a loaded model) if there are any."""
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 32,
             "projection_class_embeddings_input_dim": 80 + 6 * 32}  # fmt: skip
    texts = {
        "text_encoder": _encoder(CLIPTextModel, 64, 4, "quick_gelu"),
        "text_encoder_2": _encoder(CLIPTextModelWithProjection, 96, 4, projection_dim=80),
    }
    if networks:
        texts = {
            place: networks.prompt_encoder.encoders[name].model
            for place, name in zip(texts, ("clip_l", "clip_g"), strict=True)
        }
    unet, vae = _unet(networks, 160, **extra), _vae(networks, 0.13025)
    return _write(path, StableDiffusionXLPipeline, unet, vae, scheduler, **texts)


def _write(path: Path, kind: Any, unet: Any, vae: Any, scheduler: dict[str, Any] | None, **texts: Any) -> Pipeline:
    for text in texts.values():
        text.requires_grad_(False).eval()
    parts: dict[str, Any] = {}
    for place in texts:
        padding = "!" if (kind is StableDiffusionPipeline or place.endswith("_2")) else "<|endoftext|>"
        parts[place.replace("text_encoder", "tokenizer")] = CLIPTokenizer.from_pretrained(
            str(TOKENIZER), pad_token=padding
        )
    noise = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        **(scheduler or {}),
    )
    if kind is StableDiffusionPipeline:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    else:
        parts |= {"add_watermarker": False}
    kind(unet=unet, vae=vae, scheduler=noise, **texts, **parts).save_pretrained(path)
    return Pipeline(path, kind)


def _encoder(kind: Any, width: int, layers: int, activation: str = "gelu", **more: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return kind(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                num_attention_heads=max(1, width // 64), hidden_act=activation, eos_token_id=2, **more,
            )
        )  # fmt: skip


def _unet(networks: Any, context: int, **extra: Any) -> Any:
    if networks:
        networks.unet.register_to_config(sample_size=8)
        return networks.unet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=context,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            **extra,
        ).eval()


def _vae(networks: Any, scale: float) -> Any:
    if networks:
        return networks.vae
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            scaling_factor=scale,
        ).eval()
