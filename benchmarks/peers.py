"""What a step costs beside other trainers' own programs: seconds, memory, encoding, and how near that is to the floor.

    PEER_A1111=FOLDER PEER_A1111_PYTHON=PYTHON PEER_DIFFUSERS=... PEER_DIFFUSERS_PYTHON=... PEER_KOHYA=... PEER_KOHYA_PYTHON=... \\
    python benchmarks/peers.py --model CHECKPOINT [--resolution 256] [--batch-size 1] [--device cpu] [--turns 3] [--ours "..."]

The folders: A1111's WebUI; diffusers' repository (its examples/textual_inversion); kohya's sd-scripts. Each with the Python of
an environment in which it runs, offline too: A1111 and kohya look for CLIP's tokenizer in HF_HOME. What is not set or does
not run is left out, and said. Linux only.

Each peer runs as it stands, in fp32 on a CPU and in bf16 (A1111: fp16) on a card, and ours, `python -m lib_ti train`, twice:
in the peer's Python and numbers, and in this one with what it chooses by itself. They load one after another; then, in turn,
each takes its steps while the others wait. Median, least and most are over the turns; the first steps are left out. "of it"
is what ours takes of the peer's time. The floor is the step's operations at the rate of that Python's matrix product.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contestants
from contestants import PEERS, Task, Unavailable
from programs import ROOT, Failed, Ours, Program, environment

sys.path.insert(0, str(ROOT))

import floor

from lib_ti.model.loading import open_checkpoint

COLUMNS = f"{'program':<20}{'torch':<14}{'numbers':<8}{'s/step':>9}{'least':>9}{'most':>9}{'of it':>7}{'target':>8}{'floor':>8}{'encode':>8}{'peak MB':>9}"  # fmt: skip


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
        cwd=ROOT, env={**contestants.os.environ, **environment(python)}, capture_output=True, text=True, check=True,
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
    """One peer and ours, as lines of the table."""
    here, shown = Path(sys.executable), {"a1111": "A1111", "diffusers": "diffusers' script", "kohya": "kohya's script"}[name]
    programs: list[Program] = []
    try:
        peer = PEERS[name](task, folder(work))
        programs.append(peer)
        same = contestants.ours("ours, same torch", peer.python, task.precision, task, folder(work), extra)
        programs.append(same)
        if here.resolve() != peer.python.resolve():
            programs.append(contestants.ours("ours", here, "auto", task, folder(work), extra))
        for program in programs:
            program.start(task.on_card)
            if warm_up > 1:
                program.turn(warm_up - 1)
        for _ in range(turns):
            for program in programs:
                program.measure(steps)
    except Unavailable as error:
        print(f"{shown}: left out, {error}", flush=True)
        return
    except Failed as error:
        print(f"{shown}: {program.title} did not run: {error}", flush=True)
        return
    finally:
        for program in programs:
            program.stop()
    operations = floor.operations(open_checkpoint(task.checkpoint), task.resolution, task.batch)
    for program in programs:
        print(line(program, peer, name, task, operations), flush=True)


def folder(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def line(program: Program, peer: Program, name: str, task: Task, operations: int) -> str:
    numbers, share, wanted, least = task.precision, "", "", ""
    times = program.times
    if isinstance(program, Ours):
        numbers = program.settings["settings"]["precision"]
        share = f"{statistics.median(times) / statistics.median(peer.times):.2f}"
        most = target(name, task, numbers)
        wanted = "" if most is None else f"≤ {most:.2f}" if most < 1 else "< 1"
        least = f"{operations / rates(program.python, task.device, [numbers])['rates'][numbers]:.2f}"
    encoding = program.encoding_s()
    return (
        f"{program.title:<20}{version(program.python):<14}{numbers:<8}{statistics.median(times):>9.3f}{min(times):>9.3f}"
        f"{max(times):>9.3f}{share:>7}{wanted:>8}{least:>8}{'' if encoding is None else f'{encoding:.3f}':>8}"
        f"{program.peak_mb:>9.0f}"
    )


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
                print(f"\n{resolution} pixels, batch {batch}, {chosen.device}\n{COLUMNS}", flush=True)
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
