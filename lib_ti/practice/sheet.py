"""Draws the contact sheet in docs: ``python -m lib_ti.practice.sheet OUT.png``, the practice model on ordinary captions."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from lib_ti import files
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.loading import open_checkpoint
from lib_ti.model.sampling import sample
from lib_ti.practice.concepts import MODEL, SAMPLING
from lib_ti.practice.pictures import COLOURS, GROUNDS, NAMED, SECRETS

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
    nothing = {"clip_l": torch.zeros(0, model.token_table().shape[1])}
    asked = captions()
    rows = -(-len(asked) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * CELL, rows * (LABEL + seeds * CELL)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(asked):
        x, y = i % ACROSS * CELL, i // ACROSS * (LABEL + seeds * CELL)
        pen.text((x + 2, y + 1), text.removeprefix("a photo of a "), fill="black")
        for seed in range(seeds):
            encoded, empty = model.vocabulary.encode(text), model.vocabulary.encode("")
            picture = sample(model, encoded, empty, nothing, seed, SAMPLING)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y + LABEL + seed * CELL))
    return sheet


if __name__ == "__main__":
    with files.replacing(Path(sys.argv[1])) as part:
        draw_sheet().save(part)
