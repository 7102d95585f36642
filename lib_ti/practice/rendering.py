"""The training data of a practice model: rendered images, the token ids of their captions, and their classes."""

from __future__ import annotations

import random
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.practice.resumable_training import save
from lib_ti.practice.things import Scene
from lib_ti.practice.world import World

NUM_IMAGES = 30_000
CAPTIONS_PER_IMAGE = 4
SIDE = 64  # pixels


def make_scene(world: World, index: int) -> Scene:
    """The scene of one training image; the classifier's test images use indices from `NUM_IMAGES` on."""
    return world.random_scene(random.Random(index))


def _render_pixels(world: World, index: int) -> np.ndarray[Any, Any]:
    return np.asarray(world.render(make_scene(world, index), SIDE))


def _tokenize_captions(world: World, index: int) -> np.ndarray[Any, Any]:
    """(captions, tokens); one in ten captions is empty, for guidance."""
    rng, scene, tokenizer = random.Random(~index), make_scene(world, index), PromptTokenizer()
    captions = [world.caption(scene, rng) if rng.random() >= 0.1 else "" for _ in range(CAPTIONS_PER_IMAGE)]
    return np.array([tokenizer.encode(text).input_ids for text in captions], dtype=np.int32)


def render_dataset(world: World, folder: Path) -> None:
    """Write `folder`/pictures.npy (images, h, w, 3) and `folder`/captions.npy (images, captions, tokens)."""
    with Pool() as pool:
        images = np.stack(pool.map(partial(_render_pixels, world), range(NUM_IMAGES), chunksize=200))
        captions = np.stack(pool.map(partial(_tokenize_captions, world), range(NUM_IMAGES), chunksize=200))
    save(folder / "pictures.npy", lambda path: np.save(path, images))
    save(folder / "captions.npy", lambda path: np.save(path, captions))


def class_labels(world: World, device: torch.device) -> dict[str, torch.Tensor]:
    """The class index of every image, (images,), by attribute."""
    scenes = [make_scene(world, i) for i in range(NUM_IMAGES)]
    return {
        attribute: torch.tensor([names.index(str(getattr(scene, attribute))) for scene in scenes], device=device)
        for attribute, names in world.classes.items()
    }
