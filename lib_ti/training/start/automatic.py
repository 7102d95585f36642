"""The start that a training chooses for itself where the init text is "auto"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lib_ti.data.latent_cache import LatentCache
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.encode_images import Stopped
from lib_ti.training.init_vectors import AUTO_TEXT, FALLBACK_TEXT
from lib_ti.training.oom_recovery import retry_on_oom
from lib_ti.training.recorder import Recorder
from lib_ti.training.start.candidates import common_words
from lib_ti.training.start.ranking import WordRanking

TRIPLES = 16
NUM_WORDS = 3  # distinct words start better than one word several times: equal vectors get nearly equal gradients


def needs_search(settings: TrainSettings) -> bool:
    """Whether the words to start from are still to be found."""
    return settings.init_text.casefold() == AUTO_TEXT and not settings.init_random


def choose_start(
    settings: TrainSettings,
    model: StableDiffusion,
    loader: DataLoader,
    cache: LatentCache,
    recorder: Recorder,
    stop_requested: Callable[[], bool],
) -> TrainSettings:
    """The settings with the words as the init text that fit the images best, one for each vector up to `NUM_WORDS`.

    Raises Stopped.
    """

    def rank(current: TrainSettings) -> list[str]:
        ranking = WordRanking.create(model, loader, cache, TRIPLES, current.batch_size)
        ranking.stop_requested = stop_requested
        words = ranking.rank(common_words(settings.kind))
        if stop_requested():
            raise Stopped
        return [word.text for word in words]

    words, settings = retry_on_oom(rank, settings, recorder, model, in_micro_batches=True)
    text = " ".join(words[: min(NUM_WORDS, settings.vectors)]) or FALLBACK_TEXT
    settings = replace(settings, init_text=text)
    recorder.save_settings(settings)
    recorder.event("start", words=text)
    return settings
