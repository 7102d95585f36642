"""Start words for the user to choose from, and how many vectors are worth it, both by the loss on the images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib_ti.data.latent_cache import LatentCache
from lib_ti.errors import TrainingFailed
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.speed.device import DTYPES, choose_device, disable_broken_flash_attention
from lib_ti.settings.init_text import FALLBACK_TEXT
from lib_ti.training.dataloader import DataLoader, create_loader
from lib_ti.training.encode_images import ImageEncoder, Stopped
from lib_ti.training.import_images import import_images, load_examples
from lib_ti.training.oom_recovery import is_oom_error
from lib_ti.training.preflight.preflight import Plan, open_for_training
from lib_ti.training.start.automatic import BATCH_SIZE
from lib_ti.training.start.candidates import many_words, user_phrases
from lib_ti.training.start.ranking import WordRanking

TRIPLES = 24
SHOWN_WORDS = 8
MOST_VECTORS = 6
LATENT_CACHE_MB = 256


@dataclass(frozen=True)
class Suggestion:
    """`gain`: by which share of it the word's loss is below that of "object"; `share`: of the best word's gain."""

    text: str
    gain: float
    share: float


def suggest(
    plan: Plan, report: Callable[[int, int], None], stop_requested: Callable[[], bool] = lambda: False
) -> tuple[list[Suggestion], int | None]:
    """Try the user's own phrases and many common words: the best of them, and the number of vectors that start best.

    The phrases are those of the plan's `init_text`, separated by commas. `report`: called with the trials done and to be done.
    Raises Stopped, and TrainingFailed if the model gives no numbers.
    """
    with tempfile.TemporaryDirectory(prefix="lib_ti-") as folder:
        cache = LatentCache(Path(folder) / "latents", LATENT_CACHE_MB << 20)
        try:
            return _search(plan, Path(folder), cache, report, stop_requested)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            raise TrainingFailed("there is not enough memory to try words; close what else uses the device") from error
        finally:
            cache.close()


def _search(
    plan: Plan,
    folder: Path,
    cache: LatentCache,
    report: Callable[[int, int], None],
    stop_requested: Callable[[], bool],
) -> tuple[list[Suggestion], int | None]:
    """What `suggest` returns; `folder` and `cache`: for the encoded images."""
    model, loader = _prepare(plan, folder, cache, stop_requested)
    ranking = WordRanking.create(model, loader, cache, TRIPLES, max(BATCH_SIZE, plan.settings.batch_size))
    ranking.progress, ranking.stop_requested = report, stop_requested
    phrases = user_phrases(plan.settings.init_text)
    ranked = ranking.rank([*phrases, *many_words(plan.settings.kind)])
    if stop_requested():
        raise Stopped
    if not ranked:
        raise TrainingFailed("no word gives a number; try --precision fp32")
    losses = {word.text: word.loss for word in ranked}
    for phrase in set(phrases) - losses.keys():  # the user wants to know, also if others are better
        losses[phrase] = float(ranking.losses(phrase).nanmean())
    baseline = float(ranking.losses(FALLBACK_TEXT).nanmean())
    combined = {
        count: WordRanking.create(model, with_vectors(loader, count), cache, TRIPLES, ranking.batch_size).losses(
            " ".join(word.text for word in ranked[:count])
        )
        for count in range(1, min(MOST_VECTORS, len(ranked)) + 1)
    }
    return _suggestions(losses, baseline, phrases), best_count(combined)


def _prepare(
    plan: Plan, folder: Path, cache: LatentCache, stop_requested: Callable[[], bool]
) -> tuple[StableDiffusion, DataLoader]:
    """Load the model and encode the images into the cache, as a training does."""
    settings, device = plan.settings, choose_device(plan.settings.device)
    checkpoint = open_for_training(settings)
    disable_broken_flash_attention(device, settings.precision)
    # Without gradients the leanest memory mode costs little time.
    mode = settings.memory_modes[0 if device.type == "cpu" else -1]
    model = memory_modes.load(checkpoint, DTYPES[settings.precision], device, mode, "none")
    import_images(settings.images, settings.captions, folder / "images", stop_requested, settings.masks, settings.name)
    examples = load_examples(folder / "images", settings)
    ImageEncoder(model, lambda *_, **__: None, stop_requested).encode_training(examples, False, cache)
    model.vae = None
    return model, create_loader(settings, examples, cache, model, plan.templates)


def with_vectors(loader: DataLoader, count: int) -> DataLoader:
    """The same loader for another number of vectors."""
    return replace(loader, placeholder=replace(loader.placeholder, num_vectors=count))


def _suggestions(losses: Mapping[str, float], baseline: float, phrases: Sequence[str]) -> list[Suggestion]:
    gains = {text: 1 - loss / baseline for text, loss in losses.items() if loss == loss}
    ordered = sorted(gains, key=lambda text: -gains[text])
    best = max(gains.values(), default=0.0)
    shown = [text for i, text in enumerate(ordered) if i < SHOWN_WORDS or text in phrases]
    return [Suggestion(text, gains[text], gains[text] / best if best > 0 else 0.0) for text in shown]


def best_count(losses: Mapping[int, torch.Tensor]) -> int | None:
    """The smallest number of vectors whose losses (triples,) are at most a standard error above the lowest ones.

    `losses`: by number; None if there is but one.
    """
    if len(losses) < 2:
        return None
    lowest = min(losses, key=lambda count: float(losses[count].nanmean()))
    for count in sorted(losses):
        above = losses[count] - losses[lowest]
        if float(above.nanmean()) <= float(above.std()) / len(above) ** 0.5:
            return count
    return lowest
