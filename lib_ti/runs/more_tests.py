"""More test pictures of a run that has ended, with prompts that the user asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lib_ti.embedding.read import read_for_encoders
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.speed.device import DTYPES, choose_device
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.recorder import FolderRecorder
from lib_ti.training.finishing.test_images import make_test_images
from lib_ti.training.preflight.preflight import open_for_training
from lib_ti.training.preview import ImageSampler
from lib_ti.training.state import TrainState


def make_more_tests(
    folder: RunFolder, embedding_file: Path, prompts: Sequence[str], should_stop: Callable[[], bool]
) -> None:
    """Sample `prompts` with an embedding of the run, as its test pictures are made; they follow those that are there.

    Raises TextualInversionError.
    """
    stored = folder.settings
    settings = replace(
        stored,
        test_prompt=tuple(prompts),
        preview_every=stored.preview_every or 1,  # without previews there would be no test pictures either
        preview_seed=stored.preview_seed or (1,),
    )
    device, checkpoint = choose_device(settings.device), open_for_training(settings)
    embedding, _ = read_for_encoders(embedding_file, len(checkpoint.widths_by_encoder))
    model = memory_modes.load(checkpoint, DTYPES[settings.precision], device, settings.memory_modes[0])
    vectors = {name: v.to(device) for name, v in embedding.vectors_for(checkpoint.widths_by_encoder).items()}
    placeholder = Placeholder(settings.name, 0, embedding.num_vectors)
    state = TrainState.create(settings, vectors)
    sampler = ImageSampler(state, model, placeholder, FolderRecorder(folder), should_stop)
    make_test_images(sampler, vectors, next_test_index(folder))


def next_test_index(folder: RunFolder) -> int:
    """The first free index of a test picture; an even one, because those of a negative embedding come in pairs."""
    used = max(folder.history().tests, default=-1) + 1
    return used + used % 2
