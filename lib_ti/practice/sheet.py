"""Draws the sheets in docs: ``python -m lib_ti.practice.sheet OUT.png [RUN_FOLDER]``.

What the practice model makes of ordinary captions, or the previews of a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from lib_ti import files
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.sampling import sample
from lib_ti.practice.concepts import MODEL, SAMPLING
from lib_ti.practice.pictures import COLOURS, GROUNDS, NAMED, SECRETS
from lib_ti.runs.folder import RunFolder

CELL, LABEL, ACROSS = 128, 14, 8


def captions() -> list[str]:
    """One for each thing with a name, then one for each secret, colours and grounds taken in turn."""
    colours, grounds = [*COLOURS], [*GROUNDS]
    words = [*NAMED, *(SECRETS[c] for c in ("coin", "bird", "robot", "knot"))]
    return [
        f"a photo of a {colours[(3 * i) % len(colours)]} {word} {grounds[(5 * i + 1) % len(grounds)]}"
        for i, word in enumerate(words)
    ]


def draw_sheet(seeds: int = 2) -> Image.Image:
    """Every caption with each seed, one below the other, the caption above."""
    model = StableDiffusion.load(open_checkpoint(MODEL), torch.float32, torch.device("cpu"))
    conditioner = Conditioner(model, [], model.no_vectors())
    asked = captions()
    rows = -(-len(asked) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * CELL, rows * (LABEL + seeds * CELL)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(asked):
        x, y = i % ACROSS * CELL, i // ACROSS * (LABEL + seeds * CELL)
        pen.text((x + 2, y + 1), text.removeprefix("a photo of a "), fill="black")
        for seed in range(seeds):
            picture = sample(guide(conditioner, text, "", SAMPLING.steps), seed, SAMPLING)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y + LABEL + seed * CELL))
    return sheet


def draw_run(run: RunFolder) -> Image.Image:
    """The pictures a run learned from, then a row for each of its preview prompts, the steps from left to right."""
    previews = run.timeline().previews
    steps = sorted({step for step, _, _ in previews})
    prompts = sorted({prompt for _, prompt, _ in previews})
    learned = sorted(run.images.glob("*.png"))[: len(steps)]
    sheet = Image.new("RGB", (len(steps) * CELL, (1 + len(prompts)) * (LABEL + CELL)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text(
        (2, 1), f"{len(list(run.images.glob('*.png')))} pictures to learn {run.settings.name!r} from", fill="black"
    )
    for column, path in enumerate(learned):
        sheet.paste(Image.open(path).convert("RGB").resize((CELL, CELL)), (column * CELL, LABEL))
    for row, prompt in enumerate(prompts, 1):
        y = row * (LABEL + CELL)
        for column, step in enumerate(steps):
            event = previews[step, prompt, 0].data
            label = f"{event['prompt']}" if column == 0 else f"step {step}" if row == 1 else ""
            pen.text((column * CELL + 2, y + 1), label, fill="black")
            picture = Image.open(run.path / event["file"]).resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(picture, (column * CELL, y + LABEL))
    return sheet


if __name__ == "__main__":
    sheet = draw_run(RunFolder.open(Path(sys.argv[2]))) if len(sys.argv) > 2 else draw_sheet()
    with files.atomic_write(Path(sys.argv[1])) as part:
        sheet.save(part, "PNG")
