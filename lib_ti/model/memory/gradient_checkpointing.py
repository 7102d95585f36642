"""Computing a second time, in the backward pass, what would have to be kept from the forward pass otherwise.

Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016) for networks that are frozen and
draw no random numbers: the second time gives the same numbers as the first, and the gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


class _Recomputed(torch.autograd.Function):
    """`function(x)`, of which only `x` is kept."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            again = ctx.function(x)
        return None, torch.autograd.grad(again, x, gradient)[0]


def recomputed(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function(x)`, of which only `x` is kept: for what costs next to nothing."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return function(x)
    found: torch.Tensor = _Recomputed.apply(function, x)  # type: ignore[no-untyped-call]
    return found


def recompute(module: torch.nn.Module) -> None:
    """Let a module keep nothing but its inputs from now on, without a word to whatever holds it."""
    inner = module.forward

    def forward(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*inputs, **named)
        return checkpoint(inner, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    vars(module)["forward"] = forward


def is_recomputed(module: torch.nn.Module) -> bool:
    """Whether `recompute` was called for it."""
    return "forward" in vars(module)
