"""What a step costs beside other trainers' own programs: seconds, memory, encoding, and how near that is to the floor.

    python benchmarks/peers.py --model CHECKPOINT [--resolution 256] [--batch-size 1] [--device cpu] [--turns 3] [--ours "..."]

Found through the environment: PEER_A1111, the WebUI's folder; PEER_DIFFUSERS, the repository's (its examples/textual_inversion);
PEER_KOHYA, that of sd-scripts; and PEER_A1111_PYTHON and so on, the Python of an environment in which each runs, offline too:
A1111 and kohya look for CLIP's tokenizer in HF_HOME. What is not set or does not run is left out, and said. Linux only.

Each peer runs as it stands, in fp32 on a CPU and in bf16 (A1111: fp16) on a card, and ours, `python -m lib_ti train`, twice:
in the peer's Python and numbers, and in this one with what it chooses by itself. The two load one after the other; then, in
turn, each takes its steps while the other waits. Median (least–most) over the turns; the first steps are left out. A turn
during which other processes used the processor is taken again, twice at most; "others" says how much of it they had at worst.
The floor is the step's operations at the rate of the matrix product of the Python that ours ran in. Encoding is what a
program reports of each picture but the first; of the peers A1111 alone does it once and reports it.
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

import contestants
from contestants import PEERS, Task, Unavailable
from programs import ROOT, Failed, Program
from trainer import Ours, environment

sys.path.insert(0, str(ROOT))

import floor

from lib_ti.model.checkpoint.open import open_checkpoint

COLUMNS = (
    "peer", "its torch", "s/step", "our torch", "s/step", "ours/its", "target", "floor, share reached", "encoding a picture",
    "ours", "ours/its", "peak MB", "ours", "others",
)  # fmt: skip


def target(peer: str, task: Task, numbers: str) -> float | None:
    """The most that ours may take of a peer's time for a step."""
    if task.family == "sdxl":
        return 0.6 if task.on_card and task.batch == 1 else None
    if not task.on_card:
        return {
            ("a1111", "fp32"): 0.27, ("diffusers", "fp32"): 0.6, ("a1111", "bf16"): 0.15, ("diffusers", "bf16"): 0.35,
            ("kohya", "fp32"): 1.0, ("kohya", "bf16"): 1.0,
        }.get((peer, numbers))  # fmt: skip
    return 0.5 if peer == "diffusers" and task.batch == 1 else 1.0


def rates(python: Path, device: str, precisions: Sequence[str]) -> dict[str, Any]:
    """The torch of a Python, and operations per second of its matrix product."""
    told = subprocess.run(
        [python, Path(floor.__file__), device, *precisions],
        cwd=ROOT, env={**os.environ, **environment(python)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def version(python: Path) -> str:
    told = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('torch'))"],
        capture_output=True, text=True, check=True, cwd=python.parent,
    )  # fmt: skip
    return told.stdout.strip()


def compare(name: str, task: Task, work: Path, turns: int, steps: int, warm_up: int, extra: list[str]) -> None:
    """One peer and ours, as rows of the table."""
    here, programs = Path(sys.executable), list[Program]()
    try:
        peer = PEERS[name](task, folder(work))
        programs.append(peer)
        begin(peer, task, warm_up)
        variants = [(peer.python, task.precision)]
        if here.parent.resolve() != peer.python.parent.resolve():  # the interpreter itself may be shared
            variants.append((here, "auto"))
        for python, precision in variants:
            own = contestants.ours(python, precision, task, folder(work), extra)
            programs.append(own)
            begin(own, task, warm_up)
            peer.forget()
            for _ in range(turns):
                peer.measure(steps)
                own.measure(steps)
            own.stop()  # two models at a time are enough for most machines
            print(row(name, peer, own, task), flush=True)
    except Unavailable as error:
        print(f"| {name} | left out: {error} |", flush=True)
    except Failed as error:
        print(f"| {name} | {programs[-1].title} did not run: {error} |", flush=True)
    finally:
        for program in programs:
            program.stop()


def begin(program: Program, task: Task, warm_up: int) -> None:
    program.start(task.on_card)
    if warm_up > 1:
        program.turn(warm_up - 1)


def folder(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def row(name: str, peer: Program, own: Ours, task: Task) -> str:
    numbers = own.settings["settings"]["precision"]
    most = target(name, task, numbers)
    found = rates(own.python, task.device, [numbers])
    least = floor.operations(open_checkpoint(task.checkpoint), task.resolution, task.batch) / found["rates"][numbers]
    cells = [
        peer.title, f"{version(peer.python)} {task.precision}", spread(peer.times),
        f"{found['torch']} {numbers}", spread(own.times), ratio(own.times, peer.times),
        "" if most is None else f"{most:.2f}", f"{least:.3g} s, {least / statistics.median(own.times):.0%}",
        spread(peer.encoding), spread(own.encoding), ratio(own.encoding, peer.encoding),
        f"{peer.peak_mb:.0f}", f"{own.peak_mb:.0f}", f"{max(peer.disturbance + own.disturbance):.0%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.3g} s ({min(times):.3g}–{max(times):.3g})" if times else ""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"**{statistics.median(ours) / statistics.median(theirs):.2f}**" if ours and theirs else ""


def processor() -> str:
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
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
    parser.add_argument("--steps", type=int, help="in each turn; 1 on a CPU, 20 on a card")
    parser.add_argument("--warm-up", type=int, help="first steps that are left out; 1 on a CPU, 10 on a card")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--ours", default="", help="more options for ours, in quotes")
    parser.add_argument("--work", type=Path, help="folder in which the checkpoint as diffusers' folder is kept")
    chosen = parser.parse_args()
    on_card = chosen.device == "cuda"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the programs end with this one
    checkpoint = open_checkpoint(chosen.model.absolute())
    print(f"{checkpoint.family.title}, {processor()}; {chosen.ours or 'ours with its own defaults'}")
    with tempfile.TemporaryDirectory() as temporary:
        kept = (chosen.work or Path(temporary)).absolute() / f"{chosen.model.stem}-diffusers"
        if "diffusers" in chosen.peers and not kept.exists():
            contestants.as_diffusers(checkpoint.path, kept)
        for resolution in chosen.resolution:
            pictures = Path(temporary) / f"pictures-{resolution}"
            contestants.made_up_pictures(pictures, chosen.pictures, resolution)
            for batch in chosen.batch_size:
                print(f"\n{resolution} pixels, batch {batch}, {chosen.device}\n")
                print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
                for name in chosen.peers:
                    peers_own = ("fp16" if name == "a1111" else "bf16") if on_card else "fp32"
                    task = Task(
                        checkpoint.path, kept, pictures, chosen.pictures, checkpoint.family.name, resolution, batch,
                        chosen.precision or peers_own, chosen.device,
                    )  # fmt: skip
                    compare(
                        name, task, Path(temporary), chosen.turns, chosen.steps or (20 if on_card else 1),
                        chosen.warm_up or (10 if on_card else 1), shlex.split(chosen.ours),
                    )  # fmt: skip


if __name__ == "__main__":
    main()
