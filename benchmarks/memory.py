"""What memory a training needs: counted without weights for the table of estimates, and measured.

    python benchmarks/memory.py table [--write]    every family, precision and mode; --write renews the estimates
    python benchmarks/memory.py measure [--family sd1] [--resolution 256] [--batch-size 1] [--precision auto] [--memory fast]
    python benchmarks/memory.py train --model CHECKPOINT [--resolution 512] [--batch-size 1] [--precision auto] [--memory ...]

"measure" makes the family's networks at full size with random weights, does a step, a preview's step and the VAE's work, and
puts what was allocated beside the estimate: on a card what torch reserved, on a CPU what torch's allocator handed out
(bytes within operations included). "train" runs the whole trainer, `python -m lib_ti train` with previews, in each mode and
puts its peak beside the estimate: on a card all that it took there, CUDA's own included, on a CPU the process's memory without
what is mapped from files.
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
from lib_ti.model.memory import estimate as needs
from lib_ti.model.memory import meta_memory
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision
from lib_ti.model.speed.prepacked_conv import prepackable
from lib_ti.settings.train_settings import MEMORY_MODES

KINDS = ("step", "sampling", "decoding", "encoding")
TARGETS = {("sd1", 512, "fast"): 3.2e9, ("sdxl", 1024, "balanced"): 8.5e9, ("sdxl", 1024, "low"): 5.6e9}
"""The most bytes that a training may take of a card, with one picture at a time."""


def table() -> dict[str, Any]:
    return {family.name: of_family(family) for family in FAMILIES}


def compact(known: dict[str, Any]) -> str:
    """JSON with each list on one line."""
    return re.sub(r"\[[^\]]*\]", lambda found: " ".join(found[0].split()), json.dumps(known, indent=1)) + "\n"


def of_family(family: Family) -> dict[str, Any]:
    """Bytes of the weights in each precision, packed and not; and, in half precision, of what each kind of work holds."""
    weights: dict[str, dict[str, int]] = {}
    for name, dtype in (("half", torch.bfloat16), ("full", torch.float32)):
        model, packed = meta_memory.bare(family, dtype, None), meta_memory.bare(family, dtype, "low")
        weights[name] = {
            "unet": meta_memory.size(model.unet), "text": meta_memory.size(*texts(model)), "vae": meta_memory.size(model.vae),
            "packed_unet": meta_memory.size(packed.unet), "packed_text": meta_memory.size(*texts(packed)),
            "vocabulary": sum(table.nbytes for table in model.token_embeddings().values()),
            "arranged": sum(model.unet.get_parameter(f"{name}.weight").nbytes for name in prepackable(model.unet)),
        }  # fmt: skip
    work = {}
    for mode in (needs.PLAIN, *MEMORY_MODES):
        model = meta_memory.bare(family, torch.bfloat16, None if mode == needs.PLAIN else mode)
        counted = [meta_memory.count(model, side, side, 1) for side in needs.SIDES]
        work[mode] = {kind: [getattr(one, kind) for one in counted] for kind in KINDS}
    return {"parameters": sum(p.numel() for p in model.unet.parameters()), "weights": weights, "work": work}


def texts(model: StableDiffusion) -> list[torch.nn.Module]:
    return [encoder.model for encoder in model.prompt_encoder.encoders.values()]


def show(known: dict[str, Any]) -> None:
    print(
        f"{'family':<8}{'pixels':>8}{'numbers':>9}" + "".join(f"{mode:>11}" for mode in MEMORY_MODES) + "  GB on a card"
    )
    for family, side in (("sd1", 512), ("sd1", 768), ("sd2", 512), ("sd2", 768), ("sdxl", 768), ("sdxl", 1024)):
        for precision in ("bf16", "fp16", "fp32"):
            work = needs.Work(1, side**2, side**2)
            cells = [needs.needed_mb(family, mode, precision, work, True) / 1024 for mode in MEMORY_MODES]
            print(f"{family:<8}{side:>8}{precision:>9}" + "".join(f"{cell:>11.2f}" for cell in cells))


def random_weights(model: StableDiffusion, device: torch.device, mode: str) -> StableDiffusion:
    """A counted model made real: its tensors on the device, filled with small random numbers."""
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


def allocated(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that torch's allocator had given out beside what it had before."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_reserved(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def measure(arguments: argparse.Namespace) -> None:
    family = next(f for f in FAMILIES if f.name == arguments.family)
    device, side = choose_device(arguments.device), arguments.resolution
    precision = choose_precision(arguments.precision, device, needs.parameters_of(family.name))
    model = random_weights(meta_memory.bare(family, DTYPES[precision], None), device, arguments.memory)
    known = needs.Known(family.name, arguments.memory, precision, on_card=device.type == "cuda")
    weights, expected = meta_memory.size(*model.networks), known.unet + known.text + known.vae
    print(f"{family.title}, {side} pixels, batch {arguments.batch_size}, {precision}, {arguments.memory}, {device}")
    print(f"{'':<12}{'measured MB':>14}{'estimate MB':>14}{'off':>8}{'with the weights':>18}")

    def line(name: str, found: float, estimate: float) -> None:
        whole = (expected + estimate) / (weights + found) - 1
        print(
            f"{name:<12}{found / 2**20:>14.0f}{estimate / 2**20:>14.0f}{estimate / found - 1:>8.1%}{whole:>18.1%}",
            flush=True,
        )

    print(f"{'weights':<12}{weights / 2**20:>14.0f}{expected / 2**20:>14.0f}{expected / weights - 1:>8.1%}")
    found = allocated(lambda: meta_memory.training_step(model, side, side, arguments.batch_size), device)
    line("step", found, arguments.batch_size * known.work("step", side**2))
    with torch.no_grad():
        for kind, work in meta_memory.works(model, side, side).items():
            line(kind, allocated(work, device), known.work(kind, side**2))


def train(arguments: argparse.Namespace) -> None:
    family = open_checkpoint(arguments.model).family
    print(
        "| family | pixels | batch | numbers | memory | peak MB | estimate MB | off | target MB |\n" + "|---" * 9 + "|",
        flush=True,
    )
    for mode in arguments.memory:
        with tempfile.TemporaryDirectory() as temporary:
            settings, peak_mb = whole_training(arguments, mode, Path(temporary))
        work = needs.Work(
            arguments.batch_size, arguments.resolution**2, arguments.resolution**2,
            arranged=settings["acceleration"] == "arranged",
        )  # fmt: skip
        on_card = settings["device"].startswith("cuda")
        estimate = needs.needed_mb(family.name, mode, settings["precision"], work, on_card)
        target = TARGETS.get((family.name, arguments.resolution, mode)) if on_card and work.batch_size == 1 else None
        cells = [
            family.title, arguments.resolution, work.batch_size, settings["precision"], mode, f"{peak_mb:.0f}",
            f"{estimate:.0f}", f"{estimate / peak_mb - 1:+.0%}", "" if target is None else f"{target / 2**20:.0f}",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def whole_training(arguments: argparse.Namespace, mode: str, folder: Path) -> tuple[dict[str, Any], float]:
    """The settings of a training of three steps with previews, and the most memory that it had, in MiB."""
    peer_programs.write_noise_images(folder / "pictures", max(2, arguments.batch_size), arguments.resolution)
    options = {
        "model": arguments.model, "images": folder / "pictures", "name": "my-mug", "init-text": "mug", "steps": 3,
        "preview-every": 3, "preview-steps": 1, "preview-prompt": "my-mug", "preview-seed": 1, "resolution": arguments.resolution,
        "batch-size": arguments.batch_size, "device": arguments.device, "precision": arguments.precision, "memory": mode,
        "out": folder / "embeddings", "runs-dir": folder / "runs",
    }  # fmt: skip
    program = OwnProgram(Path(sys.executable), {name: str(value) for name, value in options.items()})
    on_card = choose_device(arguments.device).type == "cuda"
    try:
        events = program.run_to_end(on_card)
    finally:
        program.stop()
    # the first previews come between the first two steps
    told = max(event["memory_mb"] for event in events if event["kind"] == "step")
    return program.settings["settings"], program.peak_mb if on_card else told


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
    found = table()
    if arguments.write:
        needs.TABLE.write_text(compact(found), encoding="utf-8")
    show(found)


if __name__ == "__main__":
    main()
