"""Compare a step with other trainers: seconds, memory, encoding, and how close they come to the lower bound.

    python benchmarks/peers.py --model CHECKPOINT [--resolution 256] [--batch-size 1] [--device cpu] [--turns 3] [--ours "..."]

Environment variables locate the peers: PEER_A1111, the WebUI's folder; PEER_DIFFUSERS, that of the repository (it uses
examples/textual_inversion); PEER_KOHYA, that of sd-scripts; and PEER_A1111_PYTHON and so on, a Python in which each runs, also
offline: A1111 and kohya load CLIP's tokenizer from HF_HOME. Peers that are not set or do not run are reported. Linux only.

The peers run unmodified, in fp32 on a CPU and in bf16 (A1111: fp16) on a GPU. Our trainer, `python -m lib_ti train`, runs
twice: in the peer's Python and precision, and in this Python with its own defaults. Both programs load one after the other;
then they take turns, each waiting while the other does its steps. The table has the median (min–max) over the turns, without
the first steps. A turn during which other processes used the CPU is repeated up to twice; "others" is the largest fraction
they had. The floor is the step's FLOPs at the matrix product's rate in the Python that our trainer ran in. Encoding times are
those that a program reports for each image but the first; of the peers only A1111 encodes once and reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peer_programs
from own_program import OwnProgram, environment
from peer_programs import PEERS, Task, Unavailable
from program import ROOT, Program, ProgramFailed

sys.path.insert(0, str(ROOT))

import floor

from lib_ti.model.checkpoint.open import open_checkpoint

COLUMNS = (
    "peer", "its torch", "s/step", "our torch", "s/step", "ours/its", "target", "floor, share reached", "encoding a picture",
    "ours", "ours/its", "peak MB", "ours", "others",
)  # fmt: skip


def target(peer: str, task: Task, precision: str) -> float | None:
    """The most that our step may take, as a fraction of the peer's."""
    if task.family == "sdxl":
        return 0.6 if task.on_gpu and task.batch_size == 1 else None
    if not task.on_gpu:
        return {
            ("a1111", "fp32"): 0.27, ("diffusers", "fp32"): 0.6, ("a1111", "bf16"): 0.15, ("diffusers", "bf16"): 0.35,
            ("kohya", "fp32"): 1.0, ("kohya", "bf16"): 1.0,
        }.get((peer, precision))  # fmt: skip
    return 0.5 if peer == "diffusers" and task.batch_size == 1 else 1.0


def flop_rates(python: Path, device: str, precisions: Sequence[str]) -> dict[str, Any]:
    """The torch version of a Python, and the FLOP/s of its matrix product in each precision."""
    result = subprocess.run(
        [python, Path(floor.__file__), device, *precisions],
        cwd=ROOT, env={**os.environ, **environment(python)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rates: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return rates


def torch_version(python: Path) -> str:
    result = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('torch'))"],
        capture_output=True, text=True, check=True, cwd=python.parent,
    )  # fmt: skip
    return result.stdout.strip()


def compare(name: str, task: Task, work: Path, turns: int, steps: int, warm_up: int, extra: list[str]) -> None:
    """Measure one peer and our trainer, and print the rows of the table."""
    this_python, programs = Path(sys.executable), list[Program]()
    try:
        peer = PEERS[name](task, new_folder(work))
        programs.append(peer)
        start(peer, task, warm_up)
        variants = [(peer.python, task.precision)]
        if this_python.parent.resolve() != peer.python.parent.resolve():  # the interpreter itself may be shared
            variants.append((this_python, "auto"))
        for python, precision in variants:
            own = peer_programs.own(python, precision, task, new_folder(work), extra)
            programs.append(own)
            start(own, task, warm_up)
            peer.reset_times()
            for _ in range(turns):
                peer.measure(steps)
                own.measure(steps)
            own.stop()  # two models at a time are enough for most machines
            print(row(name, peer, own, task), flush=True)
    except Unavailable as error:
        print(f"| {name} | left out: {error} |", flush=True)
    except ProgramFailed as error:
        print(f"| {name} | {programs[-1].title} did not run: {error} |", flush=True)
    finally:
        for program in programs:
            program.stop()


def start(program: Program, task: Task, warm_up: int) -> None:
    program.start(task.on_gpu)
    if warm_up > 1:
        program.run_steps(warm_up - 1)


def new_folder(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def row(name: str, peer: Program, own: OwnProgram, task: Task) -> str:
    precision = own.settings["settings"]["precision"]
    max_ratio = target(name, task, precision)
    machine = flop_rates(own.python, task.device, [precision])
    step_flops = floor.step_flops(open_checkpoint(task.checkpoint), task.resolution, task.batch_size)
    lower_bound = step_flops / machine["rates"][precision]
    cells = [
        peer.title, f"{torch_version(peer.python)} {task.precision}", spread(peer.times),
        f"{machine['torch']} {precision}", spread(own.times), ratio(own.times, peer.times),
        "" if max_ratio is None else f"{max_ratio:.2f}", f"{lower_bound:.3g} s, {lower_bound / statistics.median(own.times):.0%}",
        spread(peer.encoding), spread(own.encoding), ratio(own.encoding, peer.encoding),
        f"{peer.peak_mb:.0f}", f"{own.peak_mb:.0f}", f"{max(peer.other_cpu + own.other_cpu):.0%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.3g} s ({min(times):.3g}–{max(times):.3g})" if times else ""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"**{statistics.median(ours) / statistics.median(theirs):.2f}**" if ours and theirs else ""


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint in the original layout")
    parser.add_argument("--peers", nargs="+", default=[*PEERS], choices=[*PEERS])
    parser.add_argument("--resolution", type=int, nargs="+", default=[256])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="of the peers")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, help="in each turn; 1 on a CPU, 20 on a GPU")
    parser.add_argument("--warm-up", type=int, help="first steps that are left out; 1 on a CPU, 10 on a GPU")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--ours", default="", help="more options for ours, in quotes")
    parser.add_argument("--work", type=Path, help="folder in which the checkpoint as diffusers' folder is kept")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the programs are stopped
    checkpoint = open_checkpoint(arguments.model.absolute())
    print(f"{checkpoint.family.title}, {cpu_name()}; {arguments.ours or 'ours with its own defaults'}")
    with tempfile.TemporaryDirectory() as temporary:
        diffusers_folder = (arguments.work or Path(temporary)).absolute() / f"{arguments.model.stem}-diffusers"
        if "diffusers" in arguments.peers and not diffusers_folder.exists():
            peer_programs.convert_to_diffusers(checkpoint.path, diffusers_folder)
        for resolution in arguments.resolution:
            images = Path(temporary) / f"pictures-{resolution}"
            peer_programs.write_noise_images(images, arguments.pictures, resolution)
            for batch_size in arguments.batch_size:
                print(f"\n{resolution} pixels, batch {batch_size}, {arguments.device}\n")
                print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
                for name in arguments.peers:
                    default_precision = ("fp16" if name == "a1111" else "bf16") if on_gpu else "fp32"
                    task = Task(
                        checkpoint.path, diffusers_folder, images, arguments.pictures, checkpoint.family.name, resolution,
                        batch_size, arguments.precision or default_precision, arguments.device,
                    )  # fmt: skip
                    compare(
                        name, task, Path(temporary), arguments.turns, arguments.steps or (20 if on_gpu else 1),
                        arguments.warm_up or (10 if on_gpu else 1), shlex.split(arguments.ours),
                    )  # fmt: skip


if __name__ == "__main__":
    main()
