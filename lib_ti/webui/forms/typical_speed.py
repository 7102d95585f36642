"""How long a training takes on a device of some kind, until one on this machine has been measured: a table to start from.

The table has the operations of each family's networks, and how many a second each kind of device gets through. A real machine
may differ by a factor of two; the first steps of a training correct the figure.
"""

from __future__ import annotations

import os

from lib_ti.data.captions import preview_count, prompts_of_tests
from lib_ti.model.memory.estimate import Workload
from lib_ti.settings.init_text import AUTO_TEXT
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.forms.speed import Estimate

FAMILIES = {"sd1": (512, 1.7, 2.1e9), "sd2": (768, 4.6, 2.6e9), "sdxl": (1024, 15.0, 6.9e9)}
"""By family: its resolution, the TFLOP of a training step on one image of that size, and the bytes of its checkpoints."""

CPU_TFLOPS_PER_CORE = 0.13
CARDS = ((10_000, 8.0), (17_000, 16.0), (33_000, 35.0), (float("inf"), 90.0))
"""Effective TFLOP/s of a graphics card by its memory: up to so many MiB."""
UNKNOWN_CARD_TFLOPS = 16.0
OVERHEAD_S = {"cpu": 0.045, "card": 0.03}
"""Seconds that a step takes at least, however small the networks are."""
START_S = {"cpu": 8.0, "card": 12.0}
"""Seconds that loading the programs takes; reading the weights comes on top."""
READ_BYTES_PER_S = 1e9
SAMPLING_SHARE = 0.8
"""The operations of a guided sampling step by those of a training step."""
SEARCHED_IMAGES, SEARCHED_IMAGES_SLOW = 600, 60
"""Of the search for words to start from: training steps that take as long. The second is for full-size networks on a CPU."""


def typical_estimate(
    settings: TrainSettings, family: str, resolution: int, device: str, gpu_mb: float | None, checkpoint_bytes: int
) -> Estimate:
    """The cost of a training on a typical device. `gpu_mb`: the card's memory, if known; `checkpoint_bytes`: size of the file."""
    usual_resolution, tflop, usual_bytes = FAMILIES[family]
    on_card = gpu_mb is not None or device not in ("cpu", "auto")
    kind = "card" if on_card else "cpu"
    rate = _card_tflops(gpu_mb) if on_card else CPU_TFLOPS_PER_CORE * (os.cpu_count() or 2)
    size = min(1.0, checkpoint_bytes / usual_bytes) if checkpoint_bytes else 1.0  # a small network is a small file
    image_s = tflop * size * (resolution / usual_resolution) ** 2 / rate
    step_s = max(OVERHEAD_S[kind], image_s)
    images = preview_count(settings) + len(prompts_of_tests(settings))
    pixels_share = Workload.of(settings, resolution).preview_pixels / resolution**2
    sampling_s = max(OVERHEAD_S[kind] / 2, SAMPLING_SHARE * image_s * pixels_share)
    preview_s = images * settings.preview_steps * sampling_s
    is_slow = not on_card and size > 0.5
    searched = 0
    if settings.init_text.casefold() == AUTO_TEXT and not (settings.init_random or settings.init_embedding):
        searched = SEARCHED_IMAGES_SLOW if is_slow else SEARCHED_IMAGES
    start_s = START_S[kind] + checkpoint_bytes / READ_BYTES_PER_S
    # small networks are searched in batches, where the overhead counts less
    start_s += searched * max(OVERHEAD_S[kind] / 4, image_s)
    return Estimate(start_s + settings.steps * settings.effective_batch_size * step_s + preview_s, preview_s, None)


def _card_tflops(gpu_mb: float | None) -> float:
    if gpu_mb is None:
        return UNKNOWN_CARD_TFLOPS
    return next(rate for limit, rate in CARDS if gpu_mb <= limit)
