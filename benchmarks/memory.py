"""The memory that a training needs: counted on the meta device for the table of estimates, and measured.

    python benchmarks/memory.py table [--write]    every family, precision and mode; --write updates model/memory/estimate.json
    python benchmarks/memory.py measure [--family sd1] [--resolution 256] [--batch-size 1] [--precision auto] [--memory fast]
    python benchmarks/memory.py train --model CHECKPOINT [--resolution 512] [--batch-size 1] [--precision auto] [--memory ...]

"measure" builds the family's networks at full size with random weights, runs a training step, a sampling step and the VAE, and
compares the memory allocated with the estimate: on a GPU what torch reserved, on a CPU what torch's allocator gave out
(memory inside of operations included). "train" runs the whole trainer, `python -m lib_ti train` with previews, in each mode
and compares its peak with the estimate: on a GPU all memory of the process, CUDA context included, on a CPU the process's
memory without pages mapped from files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import peer_programs
import torch
from own_program import OwnProgram

from lib_ti.model.checkpoint.families import FAMILIES, Family
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import estimate, meta_memory
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision
from lib_ti.model.speed.prepacked_conv import prepackable
from lib_ti.settings.train_settings import MEMORY_MODES

TASKS = ("step", "sampling", "decoding", "encoding")
TARGETS = {("sd1", 512, "fast"): 3.2e9, ("sdxl", 1024, "balanced"): 8.5e9, ("sdxl", 1024, "low"): 5.6e9}
"""The most bytes that a training may take of a GPU at batch size 1."""


def count_table() -> dict[str, Any]:
    return {family.name: count_family(family) for family in FAMILIES}


def compact_json(table: dict[str, Any]) -> str:
    """JSON with each list on one line."""
    return re.sub(r"\[[^\]]*\]", lambda match: " ".join(match[0].split()), json.dumps(table, indent=1)) + "\n"


def count_family(family: Family) -> dict[str, Any]:
    """Bytes of the weights in each precision, packed and not; and, in half precision, of each task's activations."""
    weights: dict[str, dict[str, int]] = {}
    for name, dtype in (("half", torch.bfloat16), ("full", torch.float32)):
        model, packed = meta_memory.empty_model(family, dtype, None), meta_memory.empty_model(family, dtype, "low")
        weights[name] = {
            "unet": meta_memory.weight_bytes(model.unet),
            "text": meta_memory.weight_bytes(*text_encoders(model)),
            "vae": meta_memory.weight_bytes(model.vae),
            "packed_unet": meta_memory.weight_bytes(packed.unet), "packed_text": meta_memory.weight_bytes(*text_encoders(packed)),
            "vocabulary": sum(table.nbytes for table in model.token_embeddings().values()),
            "arranged": sum(model.unet.get_parameter(f"{name}.weight").nbytes for name in prepackable(model.unet)),
        }  # fmt: skip
    activations = {}
    for mode in (estimate.PLAIN, *MEMORY_MODES):
        model = meta_memory.empty_model(family, torch.bfloat16, None if mode == estimate.PLAIN else mode)
        counts = [meta_memory.count_activations(model, side, side, 1) for side in estimate.SIDES]
        activations[mode] = {task: [getattr(count, task) for count in counts] for task in TASKS}
    return {"parameters": sum(p.numel() for p in model.unet.parameters()), "weights": weights, "work": activations}


def text_encoders(model: StableDiffusion) -> list[torch.nn.Module]:
    return [encoder.model for encoder in model.prompt_encoder.encoders.values()]


def print_estimates() -> None:
    print(
        f"{'family':<8}{'pixels':>8}{'precision':>11}"
        + "".join(f"{mode:>11}" for mode in MEMORY_MODES)
        + "  GB on a GPU"
    )
    for family, side in (("sd1", 512), ("sd1", 768), ("sd2", 512), ("sd2", 768), ("sdxl", 768), ("sdxl", 1024)):
        for precision in ("bf16", "fp16", "fp32"):
            work = estimate.Workload(1, side**2, side**2)
            cells = [estimate.needed_mb(family, mode, precision, work, True) / 1024 for mode in MEMORY_MODES]
            print(f"{family:<8}{side:>8}{precision:>11}" + "".join(f"{cell:>11.2f}" for cell in cells))


def random_weights(model: StableDiffusion, device: torch.device, mode: str) -> StableDiffusion:
    """An empty model moved to a device and filled with small random weights."""
    generator = torch.Generator().manual_seed(0)
    for network in model.networks:
        network.to_empty(device=device)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                row = torch.randn(1024, generator=generator) * 0.02
                flat = row.repeat(value.numel() // 1024 + 1)[: value.numel()]
                value.copy_((flat + (1.0 if "norm" in name and value.ndim == 1 else 0.0)).view(value.shape))
        for name, buffer in network.named_buffers():
            if "position_ids" in name:
                buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))
    model.device = device
    memory_modes.apply(model, mode)
    return model


def measure_peak(task: Callable[[], object], device: torch.device) -> int:
    """Run a task; the peak of the bytes that torch's allocator gave out beside those before."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        task()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_reserved(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        task()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def measure(arguments: argparse.Namespace) -> None:
    family = next(f for f in FAMILIES if f.name == arguments.family)
    device, side = choose_device(arguments.device), arguments.resolution
    precision = choose_precision(arguments.precision, device, estimate.parameters_of(family.name))
    model = random_weights(meta_memory.empty_model(family, DTYPES[precision], None), device, arguments.memory)
    expected = estimate.NetworkMemory(family.name, arguments.memory, precision, on_gpu=device.type == "cuda")
    weights, expected_weights = meta_memory.weight_bytes(*model.networks), expected.unet + expected.text + expected.vae
    print(f"{family.title}, {side} pixels, batch {arguments.batch_size}, {precision}, {arguments.memory}, {device}")
    print(f"{'':<12}{'measured MB':>14}{'estimate MB':>14}{'off':>8}{'with the weights':>18}")

    def print_row(name: str, measured: float, estimated: float) -> None:
        total = (expected_weights + estimated) / (weights + measured) - 1
        print(
            f"{name:<12}{measured / 2**20:>14.0f}{estimated / 2**20:>14.0f}{estimated / measured - 1:>8.1%}{total:>18.1%}",
            flush=True,
        )

    error = expected_weights / weights - 1
    print(f"{'weights':<12}{weights / 2**20:>14.0f}{expected_weights / 2**20:>14.0f}{error:>8.1%}")
    peak = measure_peak(lambda: meta_memory.training_step(model, side, side, arguments.batch_size), device)
    print_row("step", peak, arguments.batch_size * expected.activations("step", side**2))
    with torch.no_grad():
        for name, task in meta_memory.single_image_tasks(model, side, side).items():
            print_row(name, measure_peak(task, device), expected.activations(name, side**2))


def train(arguments: argparse.Namespace) -> None:
    family = open_checkpoint(arguments.model).family
    print(
        "| family | pixels | batch | precision | memory | peak MB | estimate MB | off | target MB |\n"
        + "|---" * 9
        + "|",
        flush=True,
    )
    for mode in arguments.memory:
        with tempfile.TemporaryDirectory() as temporary:
            settings, peak_mb = whole_training(arguments, mode, Path(temporary))
        work = estimate.Workload(
            arguments.batch_size, arguments.resolution**2, arguments.resolution**2,
            prepacked=settings["acceleration"] == "arranged",
        )  # fmt: skip
        on_gpu = settings["device"].startswith("cuda")
        estimated_mb = estimate.needed_mb(family.name, mode, settings["precision"], work, on_gpu)
        target = TARGETS.get((family.name, arguments.resolution, mode)) if on_gpu and work.batch_size == 1 else None
        cells = [
            family.title, arguments.resolution, work.batch_size, settings["precision"], mode, f"{peak_mb:.0f}",
            f"{estimated_mb:.0f}", f"{estimated_mb / peak_mb - 1:+.0%}", "" if target is None else f"{target / 2**20:.0f}",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def whole_training(arguments: argparse.Namespace, mode: str, folder: Path) -> tuple[dict[str, Any], float]:
    """The settings of a training of three steps with previews, and its peak memory in MiB."""
    peer_programs.write_noise_images(folder / "pictures", max(2, arguments.batch_size), arguments.resolution)
    options = {
        "model": arguments.model, "images": folder / "pictures", "name": "my-mug", "init-text": "mug", "steps": 3,
        "preview-every": 3, "preview-steps": 1, "preview-prompt": "my-mug", "preview-seed": 1, "resolution": arguments.resolution,
        "batch-size": arguments.batch_size, "device": arguments.device, "precision": arguments.precision, "memory": mode,
        "out": folder / "embeddings", "runs-dir": folder / "runs",
    }  # fmt: skip
    program = OwnProgram(Path(sys.executable), {name: str(value) for name, value in options.items()})
    on_gpu = choose_device(arguments.device).type == "cuda"
    try:
        events = program.run_to_end(on_gpu)
    finally:
        program.stop()
    # the first previews are made between the first two steps
    reported_mb = max(event["memory_mb"] for event in events if event["kind"] == "step")
    return program.settings["settings"], program.peak_mb if on_gpu else reported_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table").add_argument("--write", action="store_true")
    one = commands.add_parser("measure")
    one.add_argument("--family", default="sd1", choices=[family.name for family in FAMILIES])
    one.add_argument("--resolution", type=int, default=256)
    one.add_argument("--memory", default="fast", choices=MEMORY_MODES)
    whole = commands.add_parser("train")
    whole.add_argument("--model", type=Path, required=True)
    whole.add_argument("--resolution", type=int, default=512)
    whole.add_argument("--memory", nargs="+", default=MEMORY_MODES, choices=MEMORY_MODES)
    for command in (one, whole):
        command.add_argument("--batch-size", type=int, default=1)
        command.add_argument("--precision", default="auto", choices=["auto", *DTYPES])
        command.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if arguments.command != "table":
        {"measure": measure, "train": train}[arguments.command](arguments)
        return
    if arguments.write:
        estimate.TABLE.write_text(compact_json(count_table()), encoding="utf-8")
    print_estimates()


if __name__ == "__main__":
    main()
