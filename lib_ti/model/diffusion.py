"""A loaded Stable Diffusion: images to latents and back, prompts to their context, and the UNet's prediction."""

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
from lib_ti.model.speed.cuda_graphs import GraphedCallable


@dataclass
class StableDiffusion:
    """The networks are frozen and share `dtype`; the methods take and return fp32.

    `force_zeros_for_empty_prompt`: an empty negative prompt is encoded as zeros. `offload_text_encoders`: move the text encoders
    to the CPU while the VAE works. `cuda_graphs`: runs the UNet's training steps, if in use; see `model.memory.modes`.
    """

    unet: Any
    vae: Any
    prompt_encoder: PromptEncoder
    tokenizer: PromptTokenizer
    noise_schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    force_zeros_for_empty_prompt: bool = False
    offload_text_encoders: bool = False
    cuda_graphs: GraphedCallable | None = None

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, fp8: bool = False
    ) -> StableDiffusion:
        """Read a checkpoint's weights. The checkpoint must have a VAE. `fp8`: quantize UNet and text encoders to FP8."""
        assert checkpoint.vae is not None, "checked by the caller"
        family = checkpoint.family
        encoders = {
            encoder.name: TextEncoder(
                checkpoint.text_encoders[encoder.name].load(dtype, device, fp8),
                layer=checkpoint.hidden_layer(encoder),
                final_layer_norm=encoder.final_layer_norm,
                openclip=encoder.openclip,
                pooled=encoder.name == family.pooled_encoder,
            )
            for encoder in family.encoders
        }
        model = cls(
            unet=checkpoint.unet.load(dtype, device, fp8),
            vae=checkpoint.vae.load(dtype, device),
            prompt_encoder=PromptEncoder(encoders),
            tokenizer=PromptTokenizer(checkpoint.prompt_length),
            noise_schedule=checkpoint.noise_schedule,
            device=device,
            dtype=dtype,
            force_zeros_for_empty_prompt=family.force_zeros_for_empty_prompt,
        )
        if not checkpoint.prediction_known:
            prediction_type = model._detect_prediction_type()
            model.noise_schedule = replace(model.noise_schedule, prediction_type=prediction_type)
        return model

    @torch.no_grad()
    def _detect_prediction_type(self) -> str:
        """Either "epsilon" or "v", from the UNet's output for almost pure noise, as A1111 detects the kinds of SD2.

        At the last timestep ε is nearly the input itself, while v is nearly the negative of the image.
        """
        latents = torch.full((1, self.latent_channels, 8, 8), 0.5, device=self.device)
        width = sum(matrix.shape[1] for matrix in self.token_embeddings().values())
        context = Context(torch.full((1, 2, width), 0.5, device=self.device, dtype=self.dtype))
        t = torch.tensor([self.noise_schedule.num_train_timesteps - 1], device=self.device)
        return "v" if float((self.predict(latents, t, context) - latents).mean()) < -1 else "epsilon"

    @property
    def networks(self) -> list[Any]:
        """All networks that are present."""
        networks = [self.unet, self.vae, *(encoder.model for encoder in self.prompt_encoder.encoders.values())]
        return [network for network in networks if network is not None]

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along each axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """The token embedding matrix (vocabulary, width) of each text encoder."""
        return {name: encoder.token_table for name, encoder in self.prompt_encoder.encoders.items()}

    def empty_vectors(self) -> dict[str, torch.Tensor]:
        """For prompts without placeholders: a matrix (0, width) for each text encoder."""
        return {name: torch.zeros(0, matrix.shape[1]) for name, matrix in self.token_embeddings().items()}

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents' distribution, scaled for the UNet.

        Each is (b, c, h / vae_scale_factor, w / vae_scale_factor) fp32, for pixels (b, 3, h, w) in -1..1.
        """

        def encode() -> torch.Tensor:
            posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
            return torch.stack([posterior.mean, posterior.std]).float()

        mean, std = self._run_vae(encode) * self.vae.config.scaling_factor
        return mean, std

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (b, 3, h, w) in -1..1, fp32, of latents (b, c, h, w)."""
        scaled = latents / self.vae.config.scaling_factor
        return self._run_vae(lambda: self.vae.decode(scaled.to(self.vae.dtype)).sample.float()).clamp(-1, 1)

    def _run_vae(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The result of `compute`. A VAE that overflows in fp16, as SDXL's original one does, is cast to fp32 for good."""
        result = compute()
        if self.vae.dtype == torch.float16 and not bool(torch.isfinite(result).all()):
            self.vae.float()
            result = compute()
        return result

    def encode_prompts(self, prompts: Sequence[TokenizedPrompt], vectors: Mapping[str, torch.Tensor]) -> Context:
        """The prompts' context in the networks' dtype; differentiable in `vectors`.

        `vectors`: for each text encoder the matrix (n, width) that the prompts' placeholders index.
        """
        return self.prompt_encoder.encode(prompts, vectors).to(self.dtype)

    def predict(
        self, noisy: torch.Tensor, t: torch.Tensor, context: Context, time_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The UNet's prediction (b, c, h, w) fp32 for noisy latents at timesteps t (b,), with the context of b prompts.

        `time_ids` (b, 6): SDXL's size and crop condition; None for images that were not cropped. Families whose UNet has no
        added condition have no pooled context.
        """
        added_cond: tuple[torch.Tensor, ...] = ()
        if context.pooled is not None:
            added_cond = context.pooled, (self._uncropped(noisy) if time_ids is None else time_ids).to(self.device)
        forward = self.cuda_graphs or self.unet_forward
        return forward(noisy.to(self.dtype), t.to(self.device), context.encoder_hidden_states, *added_cond).float()

    def unet_forward(
        self, noisy: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor, *added_cond: torch.Tensor
    ) -> torch.Tensor:
        """The UNet's prediction in its own dtype. `added_cond`: text_embeds and time_ids, if the UNet takes them."""
        added_cond_kwargs = dict(zip(("text_embeds", "time_ids"), added_cond, strict=False))
        prediction: torch.Tensor = self.unet(
            noisy, t, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs
        ).sample
        return prediction

    def _uncropped(self, noisy: torch.Tensor) -> torch.Tensor:
        """The time ids (b, 6) of images that were neither resized nor cropped."""
        height, width = (side * self.vae_scale_factor for side in noisy.shape[2:])
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(len(noisy), -1)

    def release_cached_memory(self) -> None:
        """Before work of another kind: free CUDA graphs and, in lean memory modes, the allocator's cached blocks."""
        released = self.cuda_graphs is not None and self.cuda_graphs.release()
        if (released or self.offload_text_encoders) and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def vae_on_device(self) -> Iterator[None]:
        """Within the context the VAE is on the device; afterwards its memory is free for the UNet."""
        encoders = self.prompt_encoder.encoders.values() if self.offload_text_encoders else ()
        offloaded = [encoder.model for encoder in encoders]
        offload_device = torch.device("cpu") if self.device.type == "cuda" else self.device
        try:
            for network in offloaded:
                network.to(offload_device)
            self.release_cached_memory()
            self.vae.to(self.device)
            yield
        finally:
            self.vae.to(offload_device)
            self.release_cached_memory()
            for network in offloaded:
                network.to(self.device)
