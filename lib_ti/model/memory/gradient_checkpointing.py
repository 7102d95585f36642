"""Gradient checkpointing: recompute activations in the backward pass instead of saving them.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. The networks are frozen and draw no random numbers, so the
gradients are the same to the bit. diffusers' own gradient checkpointing saves the RNG state, which fails while CUDA graphs are
captured, and transformers' is reentrant in some releases, whose gradients differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lib_ti.model.memory.replacement import replace_module


class Checkpointed(torch.nn.Module):
    """Wraps a module so that only its inputs are saved for the backward pass."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.module(*args, **kwargs)
        return checkpoint(self.module, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def checkpoint_modules(root: torch.nn.Module, select: Callable[[str, torch.nn.Module], bool]) -> None:
    """Wrap each descendant of `root` for which `select(name, module)` is true; those wrapped already stay as they are."""
    modules = dict(root.named_modules())
    for name, module in modules.items():
        wrapped = isinstance(module, Checkpointed) or isinstance(modules[name.rpartition(".")[0]], Checkpointed)
        if select(name, module) and not wrapped:
            replace_module(root, name, Checkpointed(module))


class _RecomputeFunction(torch.autograd.Function):
    """`function(x)`, of which only `x` is saved."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        return None, torch.autograd.grad(y, x, gradient)[0]


def recompute(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function(x)` of one tensor, computed again in the backward pass; with less overhead than `checkpoint`."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return function(x)
    y: torch.Tensor = _RecomputeFunction.apply(function, x)  # type: ignore[no-untyped-call]
    return y
