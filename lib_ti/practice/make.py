"""Train the practice model from scratch: ``python -m lib_ti.practice.make WORK_FOLDER``.

A Stable Diffusion v1 in every respect but size, trained on images that a `World` renders, in about two hours on two cores with
bf16 matrix units, or in a few minutes on a GPU. Every stage stores its result in WORK_FOLDER, and the trainings save their state
as they go, so the program can be interrupted at any time and started again:

    render     the images, and the token ids of their captions
    vae        the autoencoder, on quarter crops (the same convolutions at a quarter of the cost), then on whole images
    latents    every image encoded; the scale that makes their std 1 / 0.18215 goes into the quant convolutions
    decoder    the autoencoder's decoder alone, on whole images, for sharper edges; the latents stay the same
    diffusion  the UNet and the text encoder together, with EMA weights
    classifier the classifier that scores generated images
    export     practice.safetensors in the LDM layout, fp16; judge.safetensors; and the images of the concepts
"""

from __future__ import annotations

import argparse
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti import files
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint import yaml_config
from lib_ti.practice.classifier import SceneClassifier
from lib_ti.practice.concepts import CONCEPTS_DIR, PRACTICE_MODEL, write_concept_images
from lib_ti.practice.export import ldm_checkpoint
from lib_ti.practice.rendering import CAPTIONS_PER_IMAGE, NUM_IMAGES, class_labels, render_dataset
from lib_ti.practice.resumable_training import ResumableTraining, ema_weights, save
from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.practice.world import World

CONFIG = yaml_config.read_config(PRACTICE_MODEL.with_suffix(".yaml"))


@dataclass(frozen=True)
class StepCounts:
    """The length of each training."""

    vae: int = 4000
    decoder: int = 900
    diffusion: int = 5500
    classifier: int = 1500


def build_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=CONFIG.unet.cross_attention_dim,
            intermediate_size=4 * CONFIG.unet.cross_attention_dim,
            num_hidden_layers=4,
            num_attention_heads=CONFIG.unet.cross_attention_dim // 64,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    )


@dataclass(frozen=True)
class Maker:
    """Makes the model of one world, stage by stage, in the folder `work`. A training whose file exists goes on from there."""

    world: World
    work: Path
    device: torch.device
    steps: StepCounts
    batch_scale: int = 1

    def make(self, folder: Path) -> None:
        """Run every stage and write the model to `folder`."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not (self.work / "captions.npy").exists():
            render_dataset(self.world, self.work)
        self.train_vae()
        if not (self.work / "latents.pt").exists():
            self.encode_latents()
        self.train_decoder()
        self.train_diffusion()
        self.train_classifier()
        self.export(folder)

    @cached_property
    def images(self) -> torch.Tensor:
        """(images, 3, h, w) bytes."""
        return torch.from_numpy(np.load(self.work / "pictures.npy")).permute(0, 3, 1, 2).to(self.device)

    @cached_property
    def latents(self) -> dict[str, Any]:
        """`latents`: (images, mean and std, 4, 8, 8); `deviation`: the std of the means."""
        latents: dict[str, Any] = torch.load(self.work / "latents.pt", weights_only=True, map_location=self.device)
        return latents

    def _training(
        self, name: str, models: dict[str, torch.nn.Module], steps: int, learning_rate: float, ema_decay: float
    ) -> ResumableTraining:
        return ResumableTraining(self.work / name, models, steps, learning_rate, ema_decay, self.device)

    def _choice(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        """Indices of so many images, times the batch scale."""
        indices = rng.choice(NUM_IMAGES, count * self.batch_scale, replace=False)
        return torch.from_numpy(indices).to(self.device)

    def _pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) in -1..1."""
        return (self.images[indices].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def train_vae(self) -> None:
        vae, steps = AutoencoderKL(**CONFIG.vae.diffusers_kwargs()), self.steps.vae
        training = self._training("vae.pt", {"vae": vae}, steps, learning_rate=1e-3, ema_decay=0.998)
        for step, rng in training:
            full_size = step >= steps * 0.85
            batch = self._pixels(self._choice(rng, 12 if full_size else 32))
            if not full_size:  # the convolutions are the same, and the cost is a quarter
                y, x = (4 * int(v) for v in rng.integers(0, 9, 2))
                batch = batch[..., y : y + 32, x : x + 32].contiguous(memory_format=torch.channels_last)
            with self._autocast():
                posterior = vae.encode(batch).latent_dist
                decoded = vae.decode(posterior.sample()).sample
            error = decoded.float() - batch
            kl = posterior.kl().float().mean()
            training.step(error.abs().mean() + error.square().mean() + 1e-6 * kl)

    @torch.inference_mode()
    def encode_latents(self) -> None:
        vae = self._trained_vae()
        moments = []
        for indices in torch.arange(NUM_IMAGES, device=self.device).split(100):
            posterior = vae.encode(self._pixels(indices)).latent_dist
            moments.append(torch.stack([posterior.mean, posterior.std], 1).half().cpu())
        latents = torch.cat(moments)
        latent_std = latents[:, 0].float().std().item()
        save(self.work / "latents.pt", lambda path: torch.save({"latents": latents, "deviation": latent_std}, path))

    def train_decoder(self) -> None:
        vae = self._trained_vae()
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        training = self._training("decoder.pt", {"vae": vae}, self.steps.decoder, learning_rate=6e-4, ema_decay=0.998)
        for _, rng in training:
            indices = self._choice(rng, 16)
            mean, std = self.latents["latents"][indices].float().unbind(1)
            with self._autocast():
                decoded = vae.decode(mean + std * torch.randn_like(std)).sample.float()
            error = decoded - self._pixels(indices)
            edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
            training.step(error.abs().mean() + error.square().mean() + 0.5 * edges)

    def _trained_vae(self) -> Any:
        """The autoencoder's EMA weights, with those of `train_decoder` if it has run."""
        vae = AutoencoderKL(**CONFIG.vae.diffusers_kwargs())
        vae.load_state_dict(ema_weights(self.work / "vae.pt")["vae"])
        if (self.work / "decoder.pt").exists():
            vae.load_state_dict(ema_weights(self.work / "decoder.pt")["vae"], strict=False)
        return vae.to(self.device)

    def train_diffusion(self) -> None:
        latents, latent_std = self.latents["latents"], self.latents["deviation"]
        captions = torch.from_numpy(np.load(self.work / "captions.npy")).to(self.device)
        unet, text = UNet2DConditionModel(**CONFIG.unet.diffusers_kwargs()), build_text_encoder()
        if self.device.type == "cpu":
            unet.set_attn_processor(AttnProcessor())  # with such small heads twice as fast as torch's fused attention
        rate = 7e-4 * self.batch_scale**0.5
        training = self._training(
            "diffusion.pt", {"unet": unet, "text": text}, self.steps.diffusion, learning_rate=rate, ema_decay=0.999
        )
        for _, rng in training:
            indices = self._choice(rng, 32)
            ids = captions[indices, int(rng.integers(CAPTIONS_PER_IMAGE))]
            mean, std = latents[indices].float().unbind(1)
            latent = (mean + std * torch.randn_like(std)) / latent_std
            noise, t = torch.randn_like(latent), torch.randint(0, 1000, (len(indices),), device=self.device)
            noisy = CONFIG.noise_schedule.add_noise(latent, noise, t)
            with self._autocast():
                predicted = unet(noisy, t, text(ids).last_hidden_state).sample
            training.step(F.mse_loss(predicted.float(), noise))

    def train_classifier(self) -> None:
        """Train on rendered images and on their reconstructions by the VAE, with a little noise, as sampled images have."""
        labels = class_labels(self.world, self.device)
        vae = self._trained_vae().requires_grad_(False)
        classifier = SceneClassifier(self.world.classes)
        training = self._training(
            "judge.pt", {"judge": classifier}, self.steps.classifier, learning_rate=1e-3, ema_decay=0.99
        )
        for _, rng in training:
            indices = self._choice(rng, 64)
            batch, reconstructed = self._pixels(indices), indices[: len(indices) // 4]
            with self._autocast(), torch.no_grad():
                decoded = vae.decode(self.latents["latents"][reconstructed, 0].float()).sample
                batch[: len(reconstructed)] = decoded.float().clamp(-1, 1)
            batch = batch + 0.08 * torch.randn_like(batch)
            with self._autocast():
                logits = classifier(batch)
            losses = [F.cross_entropy(logits[a].float(), labels[a][indices]) for a in self.world.classes]
            training.step(torch.stack(losses).sum())

    def export(self, folder: Path) -> None:
        """Write the EMA weights as a checkpoint, with the scale of the latents folded into the quant convolutions."""
        vae = self._trained_vae().cpu()
        gain = 1 / (self.latents["deviation"] * CONFIG.vae.scaling_factor)
        with torch.no_grad():
            means = CONFIG.vae.latent_channels  # the other half of the channels are log variances
            vae.quant_conv.weight[:means] *= gain
            vae.quant_conv.bias[:means] *= gain
            vae.quant_conv.bias[means:] += 2 * math.log(gain)
            vae.post_quant_conv.weight /= gain
        unet, text = UNet2DConditionModel(**CONFIG.unet.diffusers_kwargs()), build_text_encoder()
        weights = ema_weights(self.work / "diffusion.pt")
        unet.load_state_dict(weights["unet"])
        text.load_state_dict(weights["text"], strict=False)
        folder.mkdir(exist_ok=True)
        target = folder / PRACTICE_MODEL.name
        files.atomic_write_bytes(target, ldm_checkpoint(unet, vae, text, CONFIG, torch.float16))
        if not target.with_suffix(".yaml").exists():
            shutil.copyfile(PRACTICE_MODEL.with_suffix(".yaml"), target.with_suffix(".yaml"))
        classifier = {name: value.half() for name, value in ema_weights(self.work / "judge.pt")["judge"].items()}
        files.atomic_write_bytes(folder / "judge.safetensors", safetensors_bytes(classifier, {}))


def run(world: World, model_dir: Path, concepts_dir: Path) -> None:
    """The command line: make the model of a world, and the images of its concepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for intermediate results")
    for name, steps in vars(StepCounts()).items():
        parser.add_argument(f"--{name}-steps", type=int, default=steps)
    parser.add_argument("--batch-scale", type=int, default=1, help="multiplies the batch sizes")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=model_dir, help="folder for the model")
    args = parser.parse_args()
    steps = StepCounts(args.vae_steps, args.decoder_steps, args.diffusion_steps, args.classifier_steps)
    Maker(world, args.work, args.device, steps, args.batch_scale).make(args.out)
    write_concept_images(concepts_dir, world)


if __name__ == "__main__":
    run(PRACTICE_WORLD, PRACTICE_MODEL.parent, CONCEPTS_DIR)
