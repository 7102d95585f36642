"""A loaded Stable Diffusion: pictures to latents and back, prompts to features, and the UNet's prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lib_ti.model.checkpoint import Checkpoint
from lib_ti.model.noise import Noise
from lib_ti.model.prompts import Prompt, Vocabulary
from lib_ti.model.text import PromptEncoder


@dataclass
class StableDiffusion:
    """The networks are frozen and share `dtype`; what goes in and comes out is fp32."""

    unet: Any
    vae: Any
    text: PromptEncoder
    vocabulary: Vocabulary
    noise: Noise
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> StableDiffusion:
        """Read a checkpoint's weights. The checkpoint must have a VAE."""
        assert checkpoint.vae is not None, "checked by the caller"
        return cls(
            unet=checkpoint.unet.load(dtype, device),
            vae=checkpoint.vae.load(dtype, device),
            text=PromptEncoder(checkpoint.text.load(dtype, device)),
            vocabulary=Vocabulary(checkpoint.prompt_length),
            noise=checkpoint.noise,
            device=device,
            dtype=dtype,
        )

    @property
    def factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def token_table(self) -> torch.Tensor:
        """The vocabulary's vectors, (words, width)."""
        table: torch.Tensor = self.text.model.get_input_embeddings().weight  # type: ignore[operator]
        return table

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the latents, each (b, c, h / factor, w / factor) fp32, of pixels (b, 3, h, w) in -1..1."""
        posterior = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (b, 3, h, w) in -1..1, fp32, of latents (b, c, h, w)."""
        pixels: torch.Tensor = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample
        return pixels.float().clamp(-1, 1)

    def encode_prompts(self, prompts: Sequence[Prompt], vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features (b, tokens, width) of prompts, in the networks' dtype; differentiable in `vectors`.

        `vectors` holds for each text encoder the table (n, width) that the prompts' rows point into.
        """
        return self.text.encode(prompts, vectors["clip_l"]).to(self.dtype)

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The UNet's prediction (b, c, h, w), fp32, for noisy latents at times t (b,) under features (b, tokens, width)."""
        predicted: torch.Tensor = self.unet(
            noisy.to(self.dtype), t.to(self.device), encoder_hidden_states=context
        ).sample
        return predicted.float()

    @contextmanager
    def vae_at_hand(self) -> Iterator[None]:
        """The VAE is on the device within, and leaves its memory to the UNet afterwards."""
        self.vae.to(self.device)
        try:
            yield
        finally:
            if self.device.type == "cuda":
                self.vae.to("cpu")
