"""Make the contact sheets in docs: ``python -m lib_ti.practice.sheet OUT.png [RUN_FOLDER]``.

Images that the practice model generates from ordinary captions, or the previews of a run.
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
from lib_ti.practice.concepts import PRACTICE_MODEL, SAMPLING
from lib_ti.practice.scenes import PRACTICE_WORLD as WORLD
from lib_ti.runs.folder import RunFolder

CELL, LABEL, COLUMNS = 128, 14, 8  # pixels, pixels, cells


def captions() -> list[str]:
    """One caption for each thing with a name, then one for each without; colours and grounds vary."""
    colours, grounds = [*WORLD.colours], [*WORLD.grounds]
    nouns = [*WORLD.named, *(WORLD.secret_words[thing] for thing in WORLD.unnamed)]
    return [
        f"a photo of a {colours[(3 * i) % len(colours)]} {noun} {grounds[(5 * i + 1) % len(grounds)]}"
        for i, noun in enumerate(nouns)
    ]


def draw_sheet(seeds: int = 2) -> Image.Image:
    """Each caption with its images below it, one per seed."""
    model = StableDiffusion.load(open_checkpoint(PRACTICE_MODEL), torch.float32, torch.device("cpu"))
    conditioner = Conditioner(model, [], model.empty_vectors())
    prompts = captions()
    rows = -(-len(prompts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (LABEL + seeds * CELL)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(prompts):
        x, y = i % COLUMNS * CELL, i // COLUMNS * (LABEL + seeds * CELL)
        draw.text((x + 2, y + 1), text.removeprefix("a photo of a "), fill="black")
        for seed in range(seeds):
            image = sample(guide(conditioner, text, "", SAMPLING.steps), seed, SAMPLING)
            sheet.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y + LABEL + seed * CELL))
    return sheet


def draw_run(run: RunFolder) -> Image.Image:
    """The training images of a run, then a row for each preview prompt, with steps from left to right."""
    previews = run.history().previews
    steps = sorted({step for step, _, _ in previews})
    prompts = sorted({prompt for _, prompt, _ in previews})
    training_images = sorted(run.images.glob("*.png"))[: len(steps)]
    sheet = Image.new("RGB", (len(steps) * CELL, (1 + len(prompts)) * (LABEL + CELL)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (2, 1), f"{len(list(run.images.glob('*.png')))} pictures to learn {run.settings.name!r} from", fill="black"
    )
    for column, path in enumerate(training_images):
        sheet.paste(Image.open(path).convert("RGB").resize((CELL, CELL)), (column * CELL, LABEL))
    for row, prompt in enumerate(prompts, 1):
        y = row * (LABEL + CELL)
        for column, step in enumerate(steps):
            event = previews[step, prompt, 0].data
            label = f"{event['prompt']}" if column == 0 else f"step {step}" if row == 1 else ""
            draw.text((column * CELL + 2, y + 1), label, fill="black")
            image = Image.open(run.path / event["file"]).resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(image, (column * CELL, y + LABEL))
    return sheet


if __name__ == "__main__":
    sheet = draw_run(RunFolder.open(Path(sys.argv[2]))) if len(sys.argv) > 2 else draw_sheet()
    with files.atomic_write(Path(sys.argv[1])) as temporary:
        sheet.save(temporary, "PNG")
