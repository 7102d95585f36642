"""A loaded Stable Diffusion: pictures to latents and back, prompts to features, and the UNet's prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.prompt.placeholder import TokenizedPrompt
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.prompt.text_encoder import Context, PromptEncoder, TextEncoder
from lib_ti.model.speed.cuda_graphs import Graphed
from lib_ti.model.speed.prepacked_conv import arrange


@dataclass
class StableDiffusion:
    """The networks are frozen and share `dtype`; what goes in and comes out is fp32.

    `force_zeros_for_empty_prompt`: where the negative prompt is empty, the UNet gets zeros for it. `offload_text_encoders`: while the VAE works, the text
    encoders leave the device.
    """

    unet: Any
    vae: Any
    text: PromptEncoder
    tokenizer: PromptTokenizer
    noise: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    force_zeros_for_empty_prompt: bool = False
    offload_text_encoders: bool = False
    graphed: Graphed | None = None

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, packed: bool = False
    ) -> StableDiffusion:
        """Read a checkpoint's weights. The checkpoint must have a VAE. `packed`: but for the VAE's, as eight-bit floats."""
        assert checkpoint.vae is not None, "checked by the caller"
        family = checkpoint.family
        encoders = {
            encoder.name: TextEncoder(
                checkpoint.text[encoder.name].load(dtype, device, packed),
                layer=checkpoint.layer(encoder),
                final_layer_norm=encoder.normed,
                openclip=encoder.openclip,
                pooled=encoder.name == family.pooled,
            )
            for encoder in family.encoders
        }
        model = cls(
            unet=checkpoint.unet.load(dtype, device, packed),
            vae=checkpoint.vae.load(dtype, device),
            text=PromptEncoder(encoders),
            tokenizer=PromptTokenizer(checkpoint.prompt_length),
            noise=checkpoint.noise,
            device=device,
            dtype=dtype,
            force_zeros_for_empty_prompt=family.force_zeros_for_empty_prompt,
        )
        if not checkpoint.told:
            model.noise = replace(model.noise, prediction="v" if model._seems_to_predict_v() else "epsilon")
        return model

    @torch.no_grad()
    def _seems_to_predict_v(self) -> bool:
        """A look at what the UNet makes of almost pure noise, as A1111 tells one kind of SD2 from the other.

        There an epsilon is the input itself, while v is about the negative of the picture.
        """
        flat = torch.full((1, self.latent_channels, 8, 8), 0.5, device=self.device)
        width = sum(table.shape[1] for table in self.token_tables().values())
        context = Context(torch.full((1, 2, width), 0.5, device=self.device, dtype=self.dtype))
        last = torch.tensor([self.noise.steps - 1], device=self.device)
        return float((self.predict(flat, last, context) - flat).mean()) < -1

    @property
    def networks(self) -> list[Any]:
        """All that has weights."""
        there = [self.unet, self.vae, *(encoder.model for encoder in self.text.encoders.values())]
        return [network for network in there if network is not None]

    @property
    def factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def token_tables(self) -> dict[str, torch.Tensor]:
        """The vocabulary's vectors for each text encoder, (words, width)."""
        return {name: encoder.token_table for name, encoder in self.text.encoders.items()}

    def no_vectors(self) -> dict[str, torch.Tensor]:
        """For prompts without learned words: a table of none for each text encoder."""
        return {name: torch.zeros(0, table.shape[1]) for name, table in self.token_tables().items()}

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the latents, each (b, c, h / factor, w / factor) fp32, of pixels (b, 3, h, w) in -1..1."""

        def encode() -> torch.Tensor:
            posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
            return torch.stack([posterior.mean, posterior.std]).float()

        mean, deviation = self._numbers(encode) * self.vae.config.scaling_factor
        return mean, deviation

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (b, 3, h, w) in -1..1, fp32, of latents (b, c, h, w)."""
        scaled = latents / self.vae.config.scaling_factor
        return self._numbers(lambda: self.vae.decode(scaled.to(self.vae.dtype)).sample.float()).clamp(-1, 1)

    def _numbers(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What the VAE computes. One that overflows in fp16, as SDXL's own does, works in fp32 from then on."""
        found = compute()
        if self.vae.dtype == torch.float16 and not bool(torch.isfinite(found).all()):
            self.vae.float()
            found = compute()
        return found

    def encode_prompts(self, prompts: Sequence[TokenizedPrompt], vectors: Mapping[str, torch.Tensor]) -> Context:
        """The context of prompts, in the networks' dtype; differentiable in `vectors`.

        `vectors` holds for each text encoder the table (n, width) that the prompts' rows point into.
        """
        return self.text.encode(prompts, vectors).to(self.dtype)

    def predict(
        self, noisy: torch.Tensor, t: torch.Tensor, context: Context, frames: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The UNet's prediction (b, c, h, w), fp32, for noisy latents at times t (b,) under the context of b prompts.

        `frames` (b, 6): how each picture was cut, as in `data.dataset.Example.time_ids`; None where it is whole. A family whose
        UNet does not ask for it has no pooled context.
        """
        told: tuple[torch.Tensor, ...] = ()
        if context.pooled is not None:
            told = context.pooled, (self._whole(noisy) if frames is None else frames).to(self.device)
        through = self.graphed or self._through_unet
        return through(noisy.to(self.dtype), t.to(self.device), context.features, *told).float()

    def _through_unet(
        self, noisy: torch.Tensor, t: torch.Tensor, features: torch.Tensor, *told: torch.Tensor
    ) -> torch.Tensor:
        """`told`: the pooled context and the frames, in families whose UNet asks for them."""
        added = dict(zip(("text_embeds", "time_ids"), told, strict=False))
        predicted: torch.Tensor = self.unet(noisy, t, encoder_hidden_states=features, added_cond_kwargs=added).sample
        return predicted

    def arrange(self) -> None:
        """Arrange the weights of the convolutions once for all, see `model.convolution`: sooner on a CPU, in more memory."""
        arrange(self.unet, backward=True)
        if self.vae is not None and self.dtype != torch.float16:  # it may have to become fp32, see `_numbers`
            arrange(self.vae, backward=False)

    def use_graphs(self) -> None:
        """Let the UNet's training steps go by CUDA graphs, see `model.graphs`."""
        self.graphed = Graphed(self._through_unet)

    def _whole(self, noisy: torch.Tensor) -> torch.Tensor:
        """The frames of pictures of which nothing is cut off."""
        height, width = (side * self.factor for side in noisy.shape[2:])
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(len(noisy), -1)

    def tidy(self) -> None:
        """Before work of another kind: let go of graphs and, where room is short, of what else is reserved and not in use."""
        rested = self.graphed is not None and self.graphed.rest()
        if (rested or self.offload_text_encoders) and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def vae_on_device(self) -> Iterator[None]:
        """The VAE is on the device within, and leaves its memory to the UNet afterwards."""
        leaving = [encoder.model for encoder in self.text.encoders.values()] if self.offload_text_encoders else []
        away = torch.device("cpu") if self.device.type == "cuda" else self.device
        try:
            for network in leaving:
                network.to(away)
            self.tidy()
            self.vae.to(self.device)
            yield
        finally:
            self.vae.to(away)
            self.tidy()
            for network in leaving:
                network.to(self.device)
