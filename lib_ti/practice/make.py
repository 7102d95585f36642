"""Makes the practice model from nothing: ``python -m lib_ti.practice.make WORK_FOLDER``.

A Stable Diffusion v1 in every respect but size, trained on pictures that `pictures` draws. Two hours or so on two
cores with bf16 matrix units. Every stage leaves its result in WORK_FOLDER and a training stage saves itself as it
goes, so the program may be interrupted anywhere and started again:

    draw       pictures and their scenes
    vae        the autoencoder, on quarter crops (the same convolutions at a quarter of the cost), then whole pictures
    latents    every picture encoded; the scale that makes their deviation 1 / 0.18215 goes into the quant convolutions
    decoder    the autoencoder's decoder alone, on whole pictures, for sharper edges; the latents stay what they are
    diffusion  the UNet and the text encoder together, weights averaged
    judge      the classifier that scores pictures
    export     practice.safetensors in the original layout, fp16, judge.safetensors, and the pictures of the concepts
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
from lib_ti.embedding.write import safetensors_bytes
from lib_ti.model.checkpoint import yaml_config
from lib_ti.model.prompt.tokenizer import VOCAB_DIR
from lib_ti.practice.concepts import write_pictures
from lib_ti.practice.export import original_layout
from lib_ti.practice.fit import Fit, averaged, save
from lib_ti.practice.judge import QUESTIONS, Judge
from lib_ti.practice.pictures import Scene, caption, draw, random_scene

PICTURES = 30_000
SIDE = 64


CONFIG = yaml_config.read(Path(__file__).parent / "model" / "practice.yaml")


def build_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=CONFIG.unet.context,
            intermediate_size=4 * CONFIG.unet.context,
            num_hidden_layers=4,
            num_attention_heads=CONFIG.unet.context // 64,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    )


# --- stages ------------------------------------------------------------------------------------------------------


def make_scene(index: int) -> Scene:
    """The scene of one training picture; the judge's test pictures use indices from `PICTURES` on."""
    return random_scene(random.Random(index))


def _pixels(index: int) -> np.ndarray[Any, Any]:
    return np.asarray(draw(make_scene(index), SIDE))


def draw_pictures(work: Path) -> None:
    with Pool() as pool:
        pictures = np.stack(pool.map(_pixels, range(PICTURES), chunksize=200))
    save(work / "pictures.npy", lambda path: np.save(path, pictures))


def train_vae(work: Path, steps: int) -> None:
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    vae = AutoencoderKL(**CONFIG.vae.for_diffusers())
    fit = Fit(work / "vae.pt", {"vae": vae}, steps, learning_rate=1e-3, average=0.998)
    for step, rng in fit:
        whole = step >= steps * 0.85
        batch = _to_tensor(pictures[np.sort(rng.choice(PICTURES, 12 if whole else 32, replace=False))])
        if not whole:  # the convolutions are the same, and the cost is a quarter
            y, x = (4 * int(v) for v in rng.integers(0, 9, 2))
            batch = batch[..., y : y + 32, x : x + 32]
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - batch
        kl = posterior.kl().float().mean()
        fit.step(error.abs().mean() + error.square().mean() + 1e-6 * kl)


@torch.inference_mode()
def encode_latents(work: Path) -> None:
    pictures, vae = np.load(work / "pictures.npy", mmap_mode="r"), _trained_vae(work)
    moments = []
    for start in range(0, PICTURES, 100):
        posterior = vae.encode(_to_tensor(pictures[start : start + 100])).latent_dist
        moments.append(torch.stack([posterior.mean, posterior.std], 1).half())
    latents = torch.cat(moments)  # (pictures, mean and std, 4, 8, 8)
    deviation = latents[:, 0].float().std().item()
    save(work / "latents.pt", lambda path: torch.save({"latents": latents, "deviation": deviation}, path))


def train_decoder(work: Path, steps: int) -> None:
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    latents = torch.load(work / "latents.pt", weights_only=True)["latents"]
    vae = _trained_vae(work)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    fit = Fit(work / "decoder.pt", {"vae": vae}, steps, learning_rate=6e-4, average=0.998)
    for _, rng in fit:
        chosen = np.sort(rng.choice(PICTURES, 16, replace=False))
        mean, std = latents[chosen].float().unbind(1)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(mean + std * torch.randn_like(std)).sample.float()
        error = decoded - _to_tensor(pictures[chosen])
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        fit.step(error.abs().mean() + error.square().mean() + 0.5 * edges)


def _trained_vae(work: Path) -> Any:
    """The averaged autoencoder, with the better decoder if there is one already."""
    vae = AutoencoderKL(**CONFIG.vae.for_diffusers())
    vae.load_state_dict(averaged(work / "vae.pt")["vae"])
    if (work / "decoder.pt").exists():
        vae.load_state_dict(averaged(work / "decoder.pt")["vae"], strict=False)
    return vae


def train_diffusion(work: Path, steps: int) -> None:
    stored = torch.load(work / "latents.pt", weights_only=True)
    latents, deviation = stored["latents"], stored["deviation"]
    scenes = [make_scene(i) for i in range(PICTURES)]
    tokenizer = CLIPTokenizer.from_pretrained(str(VOCAB_DIR))
    unet, text = UNet2DConditionModel(**CONFIG.unet.for_diffusers()), build_text_encoder()
    unet.set_attn_processor(AttnProcessor())  # on a CPU twice as fast as torch's fused attention, with such small heads
    fit = Fit(work / "diffusion.pt", {"unet": unet, "text": text}, steps, learning_rate=7e-4, average=0.999)
    for _, rng in fit:
        chosen = rng.choice(PICTURES, 32, replace=False)
        words = random.Random(int(rng.integers(2**31)))
        captions = ["" if words.random() < 0.1 else caption(scenes[i], words) for i in chosen]
        ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        mean, std = latents[chosen].float().unbind(1)
        latent = (mean + std * torch.randn_like(std)) / deviation
        noise, t = torch.randn_like(latent), torch.randint(0, 1000, (len(chosen),))
        noisy = CONFIG.noise.add(latent, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, t, text(ids).last_hidden_state).sample
        fit.step(F.mse_loss(predicted.float(), noise))


def train_judge(work: Path, steps: int) -> None:
    """On drawn pictures and on what the VAE makes of them, a little noisy, as sampled pictures are."""
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    answers = _answers(PICTURES)
    stored = torch.load(work / "latents.pt", weights_only=True)
    vae = _trained_vae(work).requires_grad_(False)
    judge = Judge()
    fit = Fit(work / "judge.pt", {"judge": judge}, steps, learning_rate=1e-3, average=0.99)
    for _, rng in fit:
        chosen = rng.choice(PICTURES, 64, replace=False)
        drawn = _to_tensor(pictures[chosen])
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            drawn[:16] = vae.decode(stored["latents"][chosen[:16], 0].float()).sample.float().clamp(-1, 1)
        drawn = drawn + 0.08 * torch.randn_like(drawn)
        with torch.autocast("cpu", torch.bfloat16):
            scores = judge(drawn)
        fit.step(sum(F.cross_entropy(scores[q].float(), answers[q][chosen]) for q in QUESTIONS))  # type: ignore[arg-type]


def _answers(count: int) -> dict[str, torch.Tensor]:
    scenes = [make_scene(i) for i in range(count)]
    return {q: torch.tensor([of.index(getattr(scene, q)) for scene in scenes]) for q, of in QUESTIONS.items()}


def export(work: Path, folder: Path) -> None:
    """Write the averaged weights as a checkpoint, the scale of the latents folded into the quant convolutions."""
    deviation = torch.load(work / "latents.pt", weights_only=True)["deviation"]
    vae = _trained_vae(work)
    gain = 1 / (deviation * CONFIG.vae.scale)
    with torch.no_grad():
        means = CONFIG.vae.latent_channels  # the other half are logarithms of variances
        vae.quant_conv.weight[:means] *= gain
        vae.quant_conv.bias[:means] *= gain
        vae.quant_conv.bias[means:] += 2 * math.log(gain)
        vae.post_quant_conv.weight /= gain
    unet, text = UNet2DConditionModel(**CONFIG.unet.for_diffusers()), build_text_encoder()
    weights = averaged(work / "diffusion.pt")
    unet.load_state_dict(weights["unet"])
    text.load_state_dict(weights["text"], strict=False)
    folder.mkdir(exist_ok=True)
    files.atomic_write_bytes(folder / "practice.safetensors", original_layout(unet, vae, text, CONFIG, torch.float16))
    judge = {name: value.half() for name, value in averaged(work / "judge.pt")["judge"].items()}
    files.atomic_write_bytes(folder / "judge.safetensors", safetensors_bytes(judge, {}))


def _to_tensor(pictures: np.ndarray[Any, Any]) -> torch.Tensor:
    """(n, h, w, 3) bytes to (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
        draw_pictures(work)
    train_vae(work, args.vae_steps)
    if not (work / "latents.pt").exists():
        encode_latents(work)
    train_decoder(work, args.decoder_steps)
    train_diffusion(work, args.diffusion_steps)
    train_judge(work, args.judge_steps)
    export(work, args.out)
    write_pictures()


if __name__ == "__main__":
    main()
