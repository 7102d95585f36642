"""Classifier-free guidance by prompts that may change between steps, combined as AUTOMATIC1111 does.

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
    """One prompt over all steps. `ends`: for each row of `context`, the step up to which it is used."""

    context: Context
    ends: Sequence[int]
    weight: float = 1.0

    def at(self, step: int) -> Context:
        """The context at `step`, which counts from 0. As in A1111, a row with end n is still used at step n."""
        return self.context.select([next((i for i, end in enumerate(self.ends) if step <= end), 0)])


@dataclass(frozen=True)
class Guidance:
    """`prompts`: the conditional prompts, composed by their weights; `negative`: the negative prompt."""

    model: StableDiffusion
    prompts: Sequence[ScheduledPrompt]
    negative: ScheduledPrompt

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, step: int, scale: float) -> torch.Tensor:
        """The guided prediction (1, c, h, w) for noisy latents of that shape at timestep t (); `step` counts from 0.

        A negative prompt whose length differs from the prompts' is a UNet call of its own.
        """
        context = _stack([prompt.at(step) for prompt in self.prompts])
        weights = [prompt.weight * scale for prompt in self.prompts]
        if weights == [1.0]:  # the negative prompt would cancel out
            return self._predict(noisy, t, context)
        negative = self.negative.at(step)
        if context.encoder_hidden_states.shape[1] == negative.encoder_hidden_states.shape[1]:
            *conditional, unconditional = self._predict(noisy, t, _concatenate([context, negative])).split(1)
        else:
            conditional = list(self._predict(noisy, t, context).split(1))
            unconditional = self._predict(noisy, t, negative)
        guided: torch.Tensor = unconditional
        for weight, prediction in zip(weights, conditional, strict=True):
            guided = guided + weight * (prediction - unconditional)
        return guided

    def _predict(self, noisy: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        batch_size = len(context.encoder_hidden_states)
        return self.model.predict(noisy.expand(batch_size, -1, -1, -1), t.expand(batch_size), context)


def encoded_texts(prompt: str, negative: str, steps: int) -> set[str]:
    """All texts that the text encoders get for an image of so many steps."""
    parts = [*schedule.split_by_and(schedule.strip_comments(prompt)), (schedule.strip_comments(negative), 1.0)]
    return {stage for text, _ in parts for _, stage in schedule.prompt_schedule(text, steps)}


def guide(conditioner: Conditioner, prompt: str, negative: str, steps: int) -> Guidance:
    """The guidance by a prompt and a negative prompt, in A1111's syntax, for an image of so many steps."""
    prompts = [
        _encode(conditioner, text, steps, weight)
        for text, weight in schedule.split_by_and(schedule.strip_comments(prompt))
    ]
    return Guidance(conditioner.model, prompts, _encode(conditioner, schedule.strip_comments(negative), steps))


def _encode(conditioner: Conditioner, text: str, steps: int, weight: float | None = None) -> ScheduledPrompt:
    """`weight`: None for the negative prompt."""
    model = conditioner.model
    ends, texts = zip(*schedule.prompt_schedule(text, steps), strict=True)
    context = conditioner.encode(texts).to(model.dtype)
    if weight is None and model.force_zeros_for_empty_prompt and not any(texts):
        context = context.zeros_like()
    return ScheduledPrompt(context, ends, 1.0 if weight is None else weight)


def _stack(contexts: Sequence[Context]) -> Context:
    """One batch of contexts of any lengths; shorter ones are padded with their last vector."""
    length = max(context.encoder_hidden_states.shape[1] for context in contexts)

    def padded(states: torch.Tensor) -> torch.Tensor:
        return torch.cat([states, states[:, -1:].expand(-1, length - states.shape[1], -1)], dim=1)

    return _concatenate([Context(padded(context.encoder_hidden_states), context.pooled) for context in contexts])


def _concatenate(contexts: Sequence[Context]) -> Context:
    pooled = [context.pooled for context in contexts if context.pooled is not None]
    return Context(
        torch.cat([context.encoder_hidden_states for context in contexts]), torch.cat(pooled) if pooled else None
    )
