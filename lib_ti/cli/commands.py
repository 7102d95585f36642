"""The commands `runs`, `forget`, `report`, `generate`, `inspect`, `convert` and `doctor`.

They import what needs torch only after their options are parsed, so that mistakes and --help are answered at once.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_ti import __version__
from lib_ti.cli.arguments import Parser, path_argument
from lib_ti.cli.exit_codes import FAILED, OK
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.settings.train_settings import OPTIONS
from lib_ti.text import option_flag


def runs(arguments: Sequence[str]) -> int:
    parser = Parser("runs", "List the runs in a folder, the newest first.")
    parser.add_argument("folder", nargs="?", type=path_argument, default=Path("textual_inversion"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    values = parser.parse_strict(arguments)
    from lib_ti.runs.listing import find_runs

    if not values.folder.is_dir():
        raise BadInput([Problem("", f"there is no folder {values.folder}")])
    for run in find_runs(values.folder):
        try:
            summary = run.summary()
        except (UnusableFile, OSError) as error:
            print(error, file=sys.stderr)
            continue
        if values.json:
            print(json.dumps(summary, ensure_ascii=False))
        else:
            loss = f"loss {summary['loss']:.4f}" if summary["loss"] is not None else ""
            step = f"step {summary['step']}/{summary['steps']:<7}"
            print(f"{summary['name']:<24} {summary['state']:<12} {step} {loss:<12} {summary['folder']}")
    return OK


def forget(arguments: Sequence[str]) -> int:
    parser = Parser(
        "forget", "Delete a run's copies of your pictures and captions. The word, its previews and snapshots stay."
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    values = parser.parse_strict(arguments)
    from lib_ti.runs.folder import RunFolder
    from lib_ti.runs.picture_copies import delete_picture_copies

    delete_picture_copies(RunFolder.open(values.run))
    return OK


def report(arguments: Sequence[str]) -> int:
    parser = Parser("report", "Write the report of a run, report.html in its folder, or the comparison of a sweep.")
    parser.add_argument("run", type=path_argument, metavar="FOLDER", help="of a run, or of a sweep")
    parser.add_argument("--tensorboard", action="store_true", help="write a run's curves for TensorBoard, too")
    values = parser.parse_strict(arguments)
    from lib_ti.cli import sweep
    from lib_ti.runs.folder import RunFolder
    from lib_ti.runs.sweeps.sweep import is_sweep

    if is_sweep(values.run):
        return sweep.report(values.run)
    folder = RunFolder.open(values.run)
    from lib_ti.runs.report.run_report import write_report

    print(write_report(folder))
    if values.tensorboard:
        from lib_ti.runs.report.tensorboard import write_tensorboard

        print(write_tensorboard(folder))
    return OK


def generate(arguments: Sequence[str]) -> int:
    parser = Parser(
        "generate", "Make pictures with a checkpoint and embeddings, each called in the prompt by its file's name."
    )
    parser.add_argument("--model", type=path_argument, required=True, metavar="FILE", help=OPTIONS["model"].help)
    parser.add_argument("--vae", type=path_argument, metavar="FILE", help=OPTIONS["vae"].help)
    parser.add_argument(
        "--embedding",
        type=path_argument,
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE",
        help="an embedding; give it again for more",
    )
    prompt_syntax = "in the WebUIs' notation, as in (a:1.2), BREAK, [a:b:0.5], a AND b; of any length"
    parser.add_argument("--prompt", required=True, metavar="P", help=prompt_syntax)
    parser.add_argument("--negative-prompt", default="", metavar="N")
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--count", default="4", metavar="N", help="how many pictures, of seeds one after another [4]")
    parser.add_argument("--seed", default="0", metavar="N", help="the first picture's [0]")
    parser.add_argument("--sampler", default="dpm++ 2m", choices=OPTIONS["preview_sampler"].choices)
    parser.add_argument("--sampling-steps", default="20", metavar="N", help="[20]")
    parser.add_argument("--guidance", default="7", metavar="X", help="how strictly to follow the prompt [7]")
    parser.add_argument("--width", metavar="W", help="pixels [what the checkpoint is made for]")
    parser.add_argument("--height", metavar="H", help="pixels [what the checkpoint is made for]")
    parser.add_argument("--clip-skip", default="auto", metavar="N", help=OPTIONS["clip_skip"].help)
    for name in ("prediction", "zero_terminal_snr"):
        option = OPTIONS[name]
        parser.add_argument(option_flag(name), default="auto", choices=option.choices, help=option.help)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=OPTIONS["precision"].choices)
    values, problems = parser.parse_collecting(arguments)
    from lib_ti.cli.generate import GenerationRequest, generate_images

    generate_images(GenerationRequest.from_arguments(values, problems))
    return OK


def inspect(arguments: Sequence[str]) -> int:
    parser = Parser("inspect", "Describe an embedding file.")
    parser.add_argument("file", type=path_argument, metavar="FILE")
    parser.add_argument(
        "--model", type=path_argument, metavar="FILE", help="name the nearest words of this checkpoint's vocabulary"
    )
    parser.add_argument("--name", metavar="NAME", help="which embedding, of a file that holds several")
    parser.add_argument("--json", action="store_true")
    values = parser.parse_strict(arguments)
    from lib_ti.cli import embeddings

    return embeddings.inspect(values.file, values.model, values.name, values.json)


def convert(arguments: Sequence[str]) -> int:
    from lib_ti.embedding.write import FORMATS

    parser = Parser("convert", "Write an embedding in another format.")
    parser.add_argument(
        "source",
        type=path_argument,
        nargs="+",
        metavar="IN",
        help="the file; or the two in which diffusers keeps one of SDXL's",
    )
    parser.add_argument("target", type=path_argument, metavar="OUT", help="the file to write, or a folder for it")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--name", metavar="NAME", help="which embedding, of a file that holds several")
    parser.add_argument("--token", metavar="WORD", help="the word in diffusers' files [the embedding's name]")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    values = parser.parse_strict(arguments)
    from lib_ti.cli import embeddings

    output = embeddings.ConversionOutput(values.target, values.to, values.token, values.overwrite)
    for path in embeddings.convert(values.source, values.name, output):
        print(path)
    return OK


def doctor(arguments: Sequence[str]) -> int:
    Parser("doctor", "Look at what this machine has, and say what is missing.").parse_strict(arguments)
    healthy = True
    print(f"lib_ti {__version__}, Python {platform.python_version()} on {platform.platform()}")
    for package in ("torch", "diffusers", "transformers", "safetensors", "PIL", "numpy", "yaml", "tqdm", "ftfy"):
        try:
            module = __import__(package)
            print(f"  {package} {getattr(module, '__version__', '')}")
        except Exception as error:  # importing a broken package can raise anything
            healthy = False
            print(f"  {package}: missing or broken ({error}); run install.py again, or: pip install {package}")
    if healthy:
        print(_describe_device())
    print(f"  disk: {shutil.disk_usage(Path.cwd()).free >> 30} GB free in {Path.cwd()}")
    print("All is well." if healthy else "Something is missing; see above.")
    return OK if healthy else FAILED


def _describe_device() -> str:
    import torch

    from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
    from lib_ti.model.speed.device import LARGE_UNET, choose_device, choose_precision

    device = choose_device("auto")
    precision = choose_precision("auto", device, LARGE_UNET)
    num_tokens = len(PromptTokenizer().token_ids("a photo of a mug"))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = f"{torch.cuda.get_device_name(device)}, {free >> 20} of {total >> 20} MB free"
    else:
        name = f"the CPU, {torch.get_num_threads()} threads (no CUDA device found)"
    return f"  trains on {name}, in {precision}; the tokenizer works ({num_tokens} tokens)"
