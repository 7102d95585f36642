"""Prompts that test prompt encoding, and their conditioning as AUTOMATIC1111's own code computes it.

`PYTHONPATH=.:tests python -m reference.conditioning FOLDER PYTHON` runs the program in FOLDER with PYTHON, and writes a sketch
of its tensors to golden/.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_ti.embedding.combine import combine
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import save_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import ScheduledPrompt, guide
from lib_ti.model.prompt.tokenizer import VOCAB_DIR
from reference.checkpoints import PREFIXES_OF, SIZES, Sizes, write_checkpoint

TESTS = Path(__file__).resolve().parent.parent
GOLDEN = TESTS / "golden" / "a1111-conditioning.safetensors"
FAMILIES = {"sd1": SIZES["deep"], "sd2": SIZES["sd2"], "sdxl": SIZES["sdxl"]}
STEPS = 10
EMBEDDINGS = {"my-mug": 2, "my-mug-2": 3, "red": 1, "a long word": 40, "foo(bar)": 1, "a:b, c": 2, "café": 4, "it's": 1}
"""Embeddings and their numbers of vectors. Some names begin alike, some contain prompt syntax."""

LIST = "red car, blue house, green tree, old man, young woman, small cat, big dog, "  # 21 tokens
PROMPTS = [
    "", " ", "a mug", "a (mug)", "a ((mug)) [on] a ([(table)])", "a (red:1.5) mug, (blue:0) (green:-1)", "((a:1.3) b:0.5)",
    r"a \(mug\) \[x\] \\ a\b (\(c\):1.2)", "(unbalanced", "[unbalanced (twice", "closed) too] often", ":1.3) a: b, 1:2 :3)",
    "(a mug :1.2) (b: 0.8 ) (c:+.5)", "a mug BREAK a cup", "BREAK a", "a BREAK", "a BREAK BREAK b", "(a BREAK b:1.2)",
    "aBREAK BREAKa break", "(a:-1)(BRE\\AK:-1) c", "my-mug", "a photo of MY-MUG and my-mug-2, my-mugs, my - mug", "(my-mug:1.4)",
    "[my-mug] (red) café it's cafe", "my-(mug:1.2)", r"foo(bar) foo\(bar\) (foo\(bar\):0.7)", "a:b, c a:b,c (a:b, c:1.1)",
    LIST * 3 + "one two three four five six seven eight nine ten eleven twelve thirteen", LIST * 12, LIST * 3 + "my-mug, " * 20,
    "cat " * 73 + "my-mug-2 dog", "cat " * 74 + "my-mug", "cat " * 75 + ", dog", "cat " * 74 + ", , dog", "a long word, " * 3,
    LIST * 3 + "one two a long word three", LIST * 3 + "one my-mug two red three four five six seven eight nine ten eleven",
    "dog, " + "cat " * 90, "(" * 9 + "deep" + ")" * 9, "x" * 200, "a\nb\tc\r\nd", "日本語 café naïve “so” ﬁne Ｗｉｄｅ 😀👍🏽",
    "&amp;lt; &lt;b&gt; AT&T &eacute;", "<|endoftext|> a <|startoftext|> b", "<end_of_text> a <start_of_text> b",
    "a cat AND a dog :0.5 AND (a bird) BREAK x", "AND", "a mug :2 ", "a [red:blue:0.5] mug", "[a:b:3][(c:1.5)::7] d [:e:2]",
    "[a|b|] (c:1.2)", "a [b (c:1.3) [d:5]", "x|y [a:b:3]", "[my-:my-mug-2:5]mug", "[" + LIST * 4 + ":a (mug:1.5):4] b",
    "a mug # which is mine\n# a line\non a table",
]  # fmt: skip
REQUESTS = [
    *({"prompt": prompt, "negative": False, "clip_skip": 1} for prompt in PROMPTS),
    *(
        {"prompt": prompt, "negative": True, "clip_skip": 1}
        for prompt in ("", " ", "(bad:1.3) AND [a:b:0.2]", LIST * 4)
    ),
    *({"prompt": prompt, "negative": False, "clip_skip": 2} for prompt in ("", "a (my-mug:1.2) BREAK b", LIST * 4)),
]


def checkpoint(family: str, folder: Path) -> Path:
    return write_checkpoint(folder / f"{family}.safetensors", FAMILIES[family], dtype=torch.float32, extra_keys=False)


def embeddings(family: str) -> list[Embedding]:
    sizes, generator = FAMILIES[family], torch.Generator().manual_seed(1)
    widths = {"clip_l": sizes.width, **({"clip_g": sizes.second[0]} if sizes.second else {})}
    return [
        Embedding(name, {k: 0.03 * torch.randn(count, width, generator=generator) for k, width in widths.items()})
        for name, count in EMBEDDINGS.items()
    ]


Conditioning = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the weights and end steps of prompts, as loaders/conditioning.py returns them."""


def ours(family: str, path: Path, requests: Sequence[Mapping[str, Any]] = tuple(REQUESTS)) -> Conditioning:
    """The prompts' conditioning in this project."""
    tensors: dict[str, Tensor] = {}
    schedules = {}
    skips = {request["clip_skip"] for request in requests}
    conditioners = {skip: _conditioner(family, path, skip) for skip in skips}
    for i, request in enumerate(requests):
        conditioner, prompt = conditioners[request["clip_skip"]], request["prompt"]
        whole = ScheduledPrompt(conditioner.encode([prompt]), [STEPS])
        guidance = guide(conditioner, *(("", prompt) if request["negative"] else (prompt, "")), STEPS)
        prompts = [guidance.negative] if request["negative"] else list(guidance.prompts)
        schedules[str(i)] = [[scheduled.weight, list(scheduled.ends)] for scheduled in prompts]
        contexts = {} if request["negative"] else {f"{i}": (whole, 0)}
        contexts |= {
            f"{i}.{p}.{s}": (scheduled, end)
            for p, scheduled in enumerate(prompts)
            for s, end in enumerate(scheduled.ends)
        }
        for name, (scheduled, end) in contexts.items():
            context = scheduled.at(end)
            tensors[f"{name}.crossattn"] = context.encoder_hidden_states[0]
            if context.pooled is not None:
                tensors[f"{name}.vector"] = torch.cat([context.pooled[0], _size_embedding(conditioner.model)])
    return tensors, schedules


def _conditioner(family: str, path: Path, clip_skip: int) -> Conditioner:
    checkpoint = open_checkpoint(path).with_overrides(clip_skip=clip_skip)
    model = StableDiffusion.load(checkpoint, torch.float32, torch.device("cpu"))
    return Conditioner(model, *combine(embeddings(family), checkpoint.widths_by_encoder, model.device))


def _size_embedding(model: StableDiffusion) -> Tensor:
    """SDXL's embedding of sizes and crop (`time_ids`), for an image of 64 pixels."""
    latents = torch.zeros(1, model.latent_channels, 64 // model.vae_scale_factor, 64 // model.vae_scale_factor)
    return model.unet.add_time_proj(model._uncropped(latents).flatten()).flatten()


def theirs(family: str, path: Path, program: Path, python: Path) -> Conditioning:
    """The prompts' conditioning computed by the program's own code, in a process of its own."""
    sizes = FAMILIES[family]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "embeddings").mkdir()
        for embedding in embeddings(family):
            save_embedding(embedding, "safetensors", folder / "embeddings" / f"{embedding.name}.safetensors")
        request = {
            "family": family, "checkpoint": str(path), "embeddings": str(folder / "embeddings"), "tokenizer": str(VOCAB_DIR),
            "steps": STEPS, "encoders": _encoders(family, sizes), "prompts": REQUESTS, "size_embedding_width": 32,
        }  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        script = TESTS / "loaders" / "conditioning.py"
        command = [
            str(python),
            str(script),
            str(program),
            str(folder / "request.json"),
            str(folder / "out.safetensors"),
        ]
        process = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if process.returncode:
            raise RuntimeError(process.stderr)
        with safe_open(folder / "out.safetensors", "pt") as file:
            schedules = json.loads(file.metadata()["parts"])
        return load_file(folder / "out.safetensors"), schedules


def _encoders(family: str, sizes: Sizes) -> dict[str, tuple[int, int, int]]:
    names = PREFIXES_OF[family]
    return {
        names["text"]: (sizes.width, sizes.text_layers, 0),
        **({names["second"]: sizes.second} if sizes.second else {}),
    }


def sketch(tensor: Tensor) -> Tensor:
    """Eight random-like projections of each 77 tokens, or of a vector: any change of a value changes them."""
    rows = tensor.double().reshape(-1, 77 * tensor.shape[-1]) if tensor.ndim > 1 else tensor.double()[None]
    positions = torch.arange(rows.shape[1], dtype=torch.float64)
    waves = torch.stack([torch.cos(1 + positions * (0.7 + k)) for k in range(8)])
    return (rows @ waves.T / rows.shape[1] ** 0.5).float()


def golden() -> Conditioning:
    """Sketches of the program's tensors, the family before each name, and its schedules by family."""
    with safe_open(GOLDEN, "pt") as file:
        schedules = json.loads(file.metadata()["parts"])
    return load_file(GOLDEN), schedules


def main(program: Path, python: Path) -> None:
    sketches: dict[str, Tensor] = {}
    schedules = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            tensors, schedules[family] = theirs(family, checkpoint(family, Path(folder)), program, python)
        sketches |= {f"{family}.{name}": sketch(tensor) for name, tensor in tensors.items()}
    save_file(sketches, GOLDEN, {"parts": json.dumps(schedules)})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
