"""The start that a training chooses for itself where the init text is "auto"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lib_ti.data.latent_cache import LatentCache
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.speed.device import LARGE_UNET
from lib_ti.settings.init_text import AUTO_TEXT, FALLBACK_TEXT
from lib_ti.settings.person import person_word
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.encode_images import Stopped
from lib_ti.training.oom_recovery import free_memory, is_oom_error, retry_on_oom
from lib_ti.training.recorder import Recorder
from lib_ti.training.start.candidates import common_words
from lib_ti.training.start.ranking import WordRanking

TRIPLES = 16
BATCH_SIZE = 4  # triples at a time, if there is memory for them: without gradients an image needs little
SLOW_TRIPLES, SLOW_STRIDE = 4, 5  # for a full-size model on a CPU: a fifth of the words, on a quarter of the triples
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
    parameters = sum(parameter.numel() for parameter in model.unet.parameters())
    is_slow = model.device.type == "cpu" and parameters >= LARGE_UNET

    def rank(batch_size: int) -> list[str]:
        ranking = WordRanking.create(model, loader, cache, SLOW_TRIPLES if is_slow else TRIPLES, batch_size)
        ranking.stop_requested = stop_requested
        ranking.progress = lambda done, total: recorder.event("searching", done=done, total=total)
        words = ranking.rank(common_words(settings.kind)[:: SLOW_STRIDE if is_slow else 1])
        if stop_requested():
            raise Stopped
        return [word.text for word in words]

    try:
        words = rank(max(BATCH_SIZE, settings.batch_size))
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        words = []
    if not words:
        free_memory()  # outside the except block: the error's traceback holds tensors
        words, settings = retry_on_oom(lambda s: rank(s.batch_size), settings, recorder, model, in_micro_batches=True)
    text = " ".join(words[: min(NUM_WORDS, settings.vectors)]) or FALLBACK_TEXT
    settings = replace(settings, init_text=text)
    recorder.save_settings(settings)
    recorder.event("start", words=text)
    if not settings.consent and (word := person_word(settings)):
        recorder.event(
            "warning", message=f"the pictures look like a person ({word}): teach one only with their permission"
        )
    return settings
