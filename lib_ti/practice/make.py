"""Train the practice model from scratch: ``python -m lib_ti.practice.make WORK_FOLDER``.

A Stable Diffusion v1 in every respect but size, trained on images that `scenes` renders, in about two hours on two cores with
bf16 matrix units. Every stage stores its result in WORK_FOLDER, and the trainings save their state as they go, so the program
can be interrupted at any time and started again:

    render     the images
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
import random
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_ti import files
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint import yaml_config
from lib_ti.model.prompt.tokenizer import VOCAB_DIR
from lib_ti.practice.classifier import CLASSES, SceneClassifier
from lib_ti.practice.concepts import write_concept_images
from lib_ti.practice.export import ldm_checkpoint
from lib_ti.practice.resumable_training import ResumableTraining, ema_weights, save
from lib_ti.practice.scenes import caption, random_scene, render
from lib_ti.practice.things import Scene

NUM_IMAGES = 30_000
SIDE = 64
CONFIG = yaml_config.read_config(Path(__file__).parent / "model" / "practice.yaml")


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


# --- stages ------------------------------------------------------------------------------------------------------


def make_scene(index: int) -> Scene:
    """The scene of one training image; the classifier's test images use indices from `NUM_IMAGES` on."""
    return random_scene(random.Random(index))


def _render_pixels(index: int) -> np.ndarray[Any, Any]:
    return np.asarray(render(make_scene(index), SIDE))


def render_images(work: Path) -> None:
    with Pool() as pool:
        images = np.stack(pool.map(_render_pixels, range(NUM_IMAGES), chunksize=200))
    save(work / "pictures.npy", lambda path: np.save(path, images))


def train_vae(work: Path, steps: int) -> None:
    images = np.load(work / "pictures.npy", mmap_mode="r")
    vae = AutoencoderKL(**CONFIG.vae.diffusers_kwargs())
    training = ResumableTraining(work / "vae.pt", {"vae": vae}, steps, learning_rate=1e-3, ema_decay=0.998)
    for step, rng in training:
        full_size = step >= steps * 0.85
        batch = _to_tensor(images[np.sort(rng.choice(NUM_IMAGES, 12 if full_size else 32, replace=False))])
        if not full_size:  # the convolutions are the same, and the cost is a quarter
            y, x = (4 * int(v) for v in rng.integers(0, 9, 2))
            batch = batch[..., y : y + 32, x : x + 32]
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - batch
        kl = posterior.kl().float().mean()
        training.step(error.abs().mean() + error.square().mean() + 1e-6 * kl)


@torch.inference_mode()
def encode_latents(work: Path) -> None:
    images, vae = np.load(work / "pictures.npy", mmap_mode="r"), _trained_vae(work)
    moments = []
    for start in range(0, NUM_IMAGES, 100):
        posterior = vae.encode(_to_tensor(images[start : start + 100])).latent_dist
        moments.append(torch.stack([posterior.mean, posterior.std], 1).half())
    latents = torch.cat(moments)  # (images, mean and std, 4, 8, 8)
    latent_std = latents[:, 0].float().std().item()
    save(work / "latents.pt", lambda path: torch.save({"latents": latents, "deviation": latent_std}, path))


def train_decoder(work: Path, steps: int) -> None:
    images = np.load(work / "pictures.npy", mmap_mode="r")
    latents = torch.load(work / "latents.pt", weights_only=True)["latents"]
    vae = _trained_vae(work)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    training = ResumableTraining(work / "decoder.pt", {"vae": vae}, steps, learning_rate=6e-4, ema_decay=0.998)
    for _, rng in training:
        indices = np.sort(rng.choice(NUM_IMAGES, 16, replace=False))
        mean, std = latents[indices].float().unbind(1)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(mean + std * torch.randn_like(std)).sample.float()
        error = decoded - _to_tensor(images[indices])
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        training.step(error.abs().mean() + error.square().mean() + 0.5 * edges)


def _trained_vae(work: Path) -> Any:
    """The autoencoder's EMA weights, with those of `train_decoder` if it has run."""
    vae = AutoencoderKL(**CONFIG.vae.diffusers_kwargs())
    vae.load_state_dict(ema_weights(work / "vae.pt")["vae"])
    if (work / "decoder.pt").exists():
        vae.load_state_dict(ema_weights(work / "decoder.pt")["vae"], strict=False)
    return vae


def train_diffusion(work: Path, steps: int) -> None:
    stored = torch.load(work / "latents.pt", weights_only=True)
    latents, latent_std = stored["latents"], stored["deviation"]
    scenes = [make_scene(i) for i in range(NUM_IMAGES)]
    tokenizer = CLIPTokenizer.from_pretrained(str(VOCAB_DIR))
    unet, text = UNet2DConditionModel(**CONFIG.unet.diffusers_kwargs()), build_text_encoder()
    unet.set_attn_processor(AttnProcessor())  # with such small heads twice as fast on a CPU as torch's fused attention
    training = ResumableTraining(
        work / "diffusion.pt", {"unet": unet, "text": text}, steps, learning_rate=7e-4, ema_decay=0.999
    )
    for _, rng in training:
        indices = rng.choice(NUM_IMAGES, 32, replace=False)
        caption_rng = random.Random(int(rng.integers(2**31)))
        captions = ["" if caption_rng.random() < 0.1 else caption(scenes[i], caption_rng) for i in indices]
        ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        mean, std = latents[indices].float().unbind(1)
        latent = (mean + std * torch.randn_like(std)) / latent_std
        noise, t = torch.randn_like(latent), torch.randint(0, 1000, (len(indices),))
        noisy = CONFIG.noise_schedule.add_noise(latent, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, t, text(ids).last_hidden_state).sample
        training.step(F.mse_loss(predicted.float(), noise))


def train_classifier(work: Path, steps: int) -> None:
    """Train on rendered images and on their reconstructions by the VAE, with a little noise, as sampled images have."""
    images = np.load(work / "pictures.npy", mmap_mode="r")
    labels = _labels(NUM_IMAGES)
    stored = torch.load(work / "latents.pt", weights_only=True)
    vae = _trained_vae(work).requires_grad_(False)
    classifier = SceneClassifier()
    training = ResumableTraining(work / "judge.pt", {"judge": classifier}, steps, learning_rate=1e-3, ema_decay=0.99)
    for _, rng in training:
        indices = rng.choice(NUM_IMAGES, 64, replace=False)
        batch = _to_tensor(images[indices])
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            batch[:16] = vae.decode(stored["latents"][indices[:16], 0].float()).sample.float().clamp(-1, 1)
        batch = batch + 0.08 * torch.randn_like(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = classifier(batch)
        training.step(sum(F.cross_entropy(logits[a].float(), labels[a][indices]) for a in CLASSES))  # type: ignore[arg-type]


def _labels(count: int) -> dict[str, torch.Tensor]:
    scenes = [make_scene(i) for i in range(count)]
    return {a: torch.tensor([names.index(getattr(scene, a)) for scene in scenes]) for a, names in CLASSES.items()}


def export(work: Path, folder: Path) -> None:
    """Write the EMA weights as a checkpoint, with the scale of the latents folded into the quant convolutions."""
    latent_std = torch.load(work / "latents.pt", weights_only=True)["deviation"]
    vae = _trained_vae(work)
    gain = 1 / (latent_std * CONFIG.vae.scaling_factor)
    with torch.no_grad():
        means = CONFIG.vae.latent_channels  # the other half of the channels are log variances
        vae.quant_conv.weight[:means] *= gain
        vae.quant_conv.bias[:means] *= gain
        vae.quant_conv.bias[means:] += 2 * math.log(gain)
        vae.post_quant_conv.weight /= gain
    unet, text = UNet2DConditionModel(**CONFIG.unet.diffusers_kwargs()), build_text_encoder()
    weights = ema_weights(work / "diffusion.pt")
    unet.load_state_dict(weights["unet"])
    text.load_state_dict(weights["text"], strict=False)
    folder.mkdir(exist_ok=True)
    files.atomic_write_bytes(folder / "practice.safetensors", ldm_checkpoint(unet, vae, text, CONFIG, torch.float16))
    classifier = {name: value.half() for name, value in ema_weights(work / "judge.pt")["judge"].items()}
    files.atomic_write_bytes(folder / "judge.safetensors", safetensors_bytes(classifier, {}))


def _to_tensor(images: np.ndarray[Any, Any]) -> torch.Tensor:
    """(n, h, w, 3) bytes to (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for intermediate results")
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--decoder-steps", type=int, default=900)
    parser.add_argument("--diffusion-steps", type=int, default=5500)
    parser.add_argument("--judge-steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="folder for the model")
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "pictures.npy").exists():
        render_images(work)
    train_vae(work, args.vae_steps)
    if not (work / "latents.pt").exists():
        encode_latents(work)
    train_decoder(work, args.decoder_steps)
    train_diffusion(work, args.diffusion_steps)
    train_classifier(work, args.judge_steps)
    export(work, args.out)
    write_concept_images()


if __name__ == "__main__":
    main()
