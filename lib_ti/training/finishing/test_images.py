"""Test pictures: the finished embedding in prompts of different kinds, which show whether it can be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from lib_ti.data.captions import prompts_of_tests
from lib_ti.model.sampling import Interrupted
from lib_ti.training.preview import ImageSampler

log = logging.getLogger("lib_ti")


def make_test_images(sampler: ImageSampler, vectors: Mapping[str, torch.Tensor], first_index: int = 0) -> None:
    """Sample the test prompts of a training with the vectors that it delivers, each with the previews' first seed.

    `first_index`: of the first picture.

    What lacks memory or is not finite is left out with a warning. So is what a stop interrupts, and what fails: the embedding is
    complete, and matters more.
    """
    settings = sampler.state.settings
    prompts = prompts_of_tests(settings)
    if not prompts:
        return
    requests, made = [(texts, settings.preview_seed[0]) for _, texts in prompts], 0
    try:
        for i, image in sampler.sample(requests, vectors, "test picture"):
            (label, texts), (_, seed) = prompts[i], requests[i]
            sampler.recorder.test(
                image,
                first_index + i,
                prompt=texts.prompt,
                negative_prompt=texts.negative_prompt,
                seed=seed,
                label=label,
            )
            made += 1
    except Interrupted:
        message = (
            f"stopped while test pictures were made: {made} of {len(requests)} are there, and the word is finished"
        )
        sampler.recorder.event("warning", message=message)
    except Exception as error:
        log.exception("the test pictures failed")
        reason = f"{type(error).__name__}: {error}"
        sampler.recorder.event("warning", message=f"{made} of {len(requests)} test pictures are made ({reason})")
