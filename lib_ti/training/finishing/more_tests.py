"""More test pictures of a training that has ended, with prompts that the user asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lib_ti.embedding.read import read_for_encoders
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.speed.device import DTYPES, choose_device
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.finishing.test_images import make_test_images
from lib_ti.training.preflight.preflight import open_for_training
from lib_ti.training.preview import ImageSampler
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState


def make_more_tests(
    stored: TrainSettings,
    embedding_file: Path,
    prompts: Sequence[str],
    recorder: Recorder,
    first_index: int,
    should_stop: Callable[[], bool],
) -> None:
    """Sample `prompts` with an embedding of a training, as its test pictures are made. Raises TextualInversionError.

    `stored`: the training's settings; `first_index`: of the first picture, even where they come in pairs.
    """
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
    sampler = ImageSampler(TrainState.create(settings, vectors), model, placeholder, recorder, should_stop)
    make_test_images(sampler, vectors, first_index)
