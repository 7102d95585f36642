"""What a picture follows on its way: prompts, each of which may change, and what is unwanted, as AUTOMATIC1111 combines them.

Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022; Liu et al., "Compositional Visual Generation with Composable
Diffusion Models", 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt import schedule
from lib_ti.model.prompt.text_encoder import Context


@dataclass(frozen=True)
class ScheduledPrompt:
    """One prompt through all steps. `ends`: for each of its contexts (rows of `context`) the step up to which it holds."""

    context: Context
    ends: Sequence[int]
    weight: float = 1.0

    def at(self, step: int) -> Context:
        """Of step number `step`, which counts from 0. As in A1111 the context of end n still holds in the n-th of these."""
        return self.context.select([next((i for i, end in enumerate(self.ends) if step <= end), 0)])


@dataclass(frozen=True)
class Guidance:
    """`wanted`: prompts that guide together; `unwanted`: the negative prompt."""

    model: StableDiffusion
    wanted: Sequence[ScheduledPrompt]
    unwanted: ScheduledPrompt

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, step: int, scale: float) -> torch.Tensor:
        """The guided prediction (1, c, h, w) for noisy latents of that shape at time t () and a step that counts from 0.

        A negative prompt of another length than the prompts goes through the UNet by itself.
        """
        wanted = _stacked([strand.at(step) for strand in self.wanted])
        weights = [strand.weight * scale for strand in self.wanted]
        if weights == [1.0]:  # the negative prompt would cancel out
            return self._predict(noisy, t, wanted)
        unwanted = self.unwanted.at(step)
        if wanted.features.shape[1] == unwanted.features.shape[1]:
            *found, without = self._predict(noisy, t, _joined([wanted, unwanted])).split(1)
        else:
            found, without = list(self._predict(noisy, t, wanted).split(1)), self._predict(noisy, t, unwanted)
        predicted: torch.Tensor = without
        for weight, one in zip(weights, found, strict=True):
            predicted = predicted + weight * (one - without)
        return predicted

    def _predict(self, noisy: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        count = len(context.features)
        return self.model.predict(noisy.expand(count, -1, -1, -1), t.expand(count), context)


def said(prompt: str, negative: str, steps: int) -> set[str]:
    """All texts that go through the text encoders for a picture of so many steps."""
    joined = [*schedule.split_by_and(schedule.strip_comments(prompt)), (schedule.strip_comments(negative), 1.0)]
    return {stage for text, _ in joined for _, stage in schedule.prompt_schedule(text, steps)}


def guide(conditioner: Conditioner, prompt: str, negative: str, steps: int) -> Guidance:
    """The guidance that prompts ask for, in a picture of so many steps."""
    wanted = [
        _strand(conditioner, text, steps, weight)
        for text, weight in schedule.split_by_and(schedule.strip_comments(prompt))
    ]
    unwanted = _strand(conditioner, schedule.strip_comments(negative), steps)
    return Guidance(conditioner.model, wanted, unwanted)


def _strand(conditioner: Conditioner, text: str, steps: int, weight: float | None = None) -> ScheduledPrompt:
    """`weight`: None for the negative prompt."""
    model = conditioner.model
    ends, texts = zip(*schedule.prompt_schedule(text, steps), strict=True)
    context = conditioner.encode(texts).to(model.dtype)
    if weight is None and model.force_zeros_for_empty_prompt and not any(texts):
        context = context.zeros_like()
    return ScheduledPrompt(context, ends, 1.0 if weight is None else weight)


def _stacked(contexts: Sequence[Context]) -> Context:
    """Contexts of any lengths as one; the last vector of the shorter ones is repeated."""
    longest = max(context.features.shape[1] for context in contexts)

    def filled(features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, features[:, -1:].expand(-1, longest - features.shape[1], -1)], dim=1)

    return _joined([Context(filled(context.features), context.pooled) for context in contexts])


def _joined(contexts: Sequence[Context]) -> Context:
    pooled = [context.pooled for context in contexts if context.pooled is not None]
    return Context(torch.cat([context.features for context in contexts]), torch.cat(pooled) if pooled else None)
