"""What a step costs: seconds, memory, and how near that is to what the machine can do. One table.

    python benchmarks/step.py [--model FILE] [--resolution 512] [--batch-size 1] [--steps 5] [--device auto] [--precision auto]

Without --model: the practice model, and SD1.5 at its full size with random weights (made on the spot, 2 GB in memory).
The matrix rate is measured in the same run, in the same precision; the floor is the time that the step's operations would
take at it, and "share" how much of the step that is. It counts every operation of forward and backward
that torch's FlopCounterMode sees, convolutions and matrix products, whether a better program would need it or not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from floor import matmul_flops_per_s, seconds
from torch.utils.flop_counter import FlopCounterMode

from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache, LatentDistribution
from lib_ti.model.checkpoint import yaml_config
from lib_ti.model.checkpoint.checkpoint import build_text_encoder
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory.peak import peak_mb
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.prompt.text_encoder import PromptEncoder, TextEncoder
from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision
from lib_ti.practice.concepts import PRACTICE_MODEL
from lib_ti.settings.parsing import parse
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.init_vectors import vectors_from_text
from lib_ti.training.state import TrainState
from lib_ti.training.step import update


def random_sd15(dtype: torch.dtype, device: torch.device) -> StableDiffusion:
    """SD1.5's UNet and text encoder with random weights; a step needs no VAE."""
    from diffusers import UNet2DConditionModel

    sizes = yaml_config.default_config("sd1")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes.unet.diffusers_kwargs())
    clip = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = build_text_encoder({**clip, "vocab_size": 49408, "hidden_act": "quick_gelu"}, Path("random SD1.5"))
    generator = torch.Generator().manual_seed(0)
    for module in (unet, text):
        values = {}
        for name, empty in module.state_dict().items():
            fan_in = empty[0].numel() if empty.ndim > 1 else 1
            noise = (
                torch.randn(empty.shape, generator=generator) * (0.7 / fan_in**0.5)
                if empty.ndim > 1
                else torch.ones(empty.shape)
            )
            values[name] = noise.to(device, dtype)
        module.load_state_dict(values, assign=True)
        module.requires_grad_(False).eval()
    text.text_model.embeddings.position_ids = torch.arange(77, device=device).unsqueeze(0)
    return StableDiffusion(
        unet, None, PromptEncoder({"clip_l": TextEncoder(text)}), PromptTokenizer(), sizes.noise_schedule, device, dtype
    )


def dataloader(model: StableDiffusion, resolution: int, factor: int) -> DataLoader:
    """Batches of one example without an image file."""
    cache = LatentCache(Path("unused"), 1 << 40)
    shape = (4, resolution // factor, resolution // factor)
    cache.put(0, False, LatentDistribution(torch.zeros(shape), torch.ones(shape), None))
    examples = [Example(Path("made-up.png"), "", None, (resolution, resolution))]
    captioner = Captioner("my-mug", ["a photo of [name]"])
    return DataLoader(
        examples,
        cache,
        captioner,
        model.tokenizer,
        Placeholder("my-mug", 0, 2),
        0,
        False,
        model.noise_schedule.num_train_timesteps,
    )


def measure(
    title: str, model: StableDiffusion, resolution: int, factor: int, batch_size: int, steps: int, precision: str
) -> None:
    loader = dataloader(model, resolution, factor)
    vectors = vectors_from_text(model.token_embeddings()["clip_l"], model.tokenizer, "object", 2)
    settings, _ = parse({"precision": precision, "batch_size": str(batch_size)})
    state = TrainState.create(settings, {"clip_l": vectors.to(model.device)})

    def step() -> None:
        update(state, model, [loader.load_batch(state.step, [0] * batch_size, 0, model.device)], 0.005)

    step()  # the first one allocates memory and chooses kernels
    times = [seconds(step, model.device) for _ in range(steps)]
    with FlopCounterMode(display=False) as counter:
        step()
    middle = statistics.median(times)
    operations, best = counter.get_total_flops(), matmul_flops_per_s(model.dtype, model.device)
    least = operations / best
    print(
        f"{title:<16}{resolution:>6}{batch_size:>7}{precision:>11}{middle:>11.3f}{min(times):>9.3f}{max(times):>9.3f}"
        f"{peak_mb(model.device) or float('nan'):>10.0f}{operations / middle / 1e12:>10.3f}{best / 1e12:>10.3f}"
        f"{least:>9.3f}{least / middle:>8.0%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", *DTYPES])
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}; peak memory is the process's so far"
    )
    print(f"{'model':<16}{'pixels':>6}{'batch':>7}{'precision':>11}{'s/step':>11}{'min':>9}{'max':>9}"
          f"{'peak MB':>10}{'TFLOP/s':>10}{'matmul':>10}{'floor':>9}{'share':>8}")  # fmt: skip
    for path in [arguments.model] if arguments.model else [PRACTICE_MODEL, None]:
        checkpoint = open_checkpoint(path) if path else None
        precision = choose_precision(
            arguments.precision, device, checkpoint.unet_parameters if checkpoint else 860_000_000
        )
        dtype = DTYPES[precision]
        if checkpoint is None:
            model, resolution, factor = random_sd15(dtype, device), arguments.resolution, 8
        else:
            model = StableDiffusion.load(checkpoint, dtype, device)
            resolution, factor = min(arguments.resolution, checkpoint.resolution), model.vae_scale_factor
        title = path.stem if path else "random SD1.5"
        measure(title, model, resolution, factor, arguments.batch_size, arguments.steps, precision)


if __name__ == "__main__":
    main()
