"""How a frozen network's weights lie in memory, and what its layers keep for the backward pass.

Only the gradient of a layer's input is ever wanted here, which needs the weight and not the input. torch's convolution
keeps its input all the same; `Convolution` does not. With `fp8` the matrices and convolutions lie in memory as eight-bit
floats (Micikevicius et al., "FP8 Formats for Deep Learning", 2022: E4M3) with one scale for each output channel. They are
brought to the numbers of what comes in at each use, forward and backward, and nothing keeps what they were brought to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of FP8


def stored(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, ...) in FP8, and the scale (out, 1, ...) fp32 that brings each output channel's numbers back."""
    rows = weight.float()
    largest = rows.abs().amax(dim=tuple(range(1, rows.ndim)), keepdim=True)
    scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (rows / scale).to(FP8), scale


def restored(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """What `stored` was given, up to FP8's rounding, in `dtype`; without a scale the weight itself."""
    return weight if scale is None else weight.to(dtype).mul_(scale.to(dtype))


class _Product(torch.autograd.Function):
    """x @ weight.T + bias, whose backward pass brings the weight back once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, restored(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        return gradient @ restored(weight, scale, gradient.dtype), None, None, None


class _Convolved(torch.autograd.Function):
    """A convolution that keeps only its weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any, how: Any) -> torch.Tensor:
        ctx.save_for_backward(*((weight,) if scale is None else (weight, scale)))
        ctx.how, ctx.shape = how, x.shape
        return F.conv2d(x, restored(weight, scale, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = (*ctx.saved_tensors, None)[:2]
        stride, padding, dilation, groups = ctx.how
        like = gradient if gradient.shape == ctx.shape else gradient.new_empty(ctx.shape)  # only its shape counts
        found = torch.ops.aten.convolution_backward(
            gradient, like, restored(weight, scale, gradient.dtype), None, stride, padding, dilation, False, [0, 0],
            groups, [True, False, False],
        )  # fmt: skip
        return found[0], None, None, None, None


class Fp8Linear(torch.nn.Linear):
    """A frozen `torch.nn.Linear` whose weight lies in memory as FP8."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Product.apply(x, self.weight, self.scale, self.bias)  # type: ignore[no-untyped-call]
        return found


class Convolution(torch.nn.Conv2d):
    """A frozen `torch.nn.Conv2d` that keeps nothing of its input; its weight may lie in memory as FP8."""

    scale: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        how = (self.stride, self.padding, self.dilation, self.groups)
        found: torch.Tensor = _Convolved.apply(x, self.weight, self.scale, self.bias, how)  # type: ignore[no-untyped-call]
        return found


BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "text_model.encoder.")
"""Where nearly all weights are. What stands before and behind them is small, and its rounding would be felt everywhere."""


def packable(network: torch.nn.Module, name: str) -> bool:
    """Whether the weight of this name may lie in memory as FP8: a matrix or a convolution within the blocks."""
    owner, _, leaf = name.rpartition(".")
    return (
        leaf == "weight"
        and name.startswith(BLOCKS)
        and isinstance(network.get_submodule(owner), (torch.nn.Linear, torch.nn.Conv2d))
    )


def use_packed(network: torch.nn.Module, scales: Mapping[str, torch.Tensor]) -> None:
    """Make the layers with these weights, which are FP8 already, compute with them; `scales` by the weights' names."""
    for name, scale in scales.items():
        layer = network.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, torch.nn.Linear):
            layer.__class__ = Fp8Linear
        else:
            forget_inputs(layer)
        layer.register_buffer("scale", scale, persistent=False)


@torch.no_grad()
def pack(network: torch.nn.Module) -> None:
    """Bring a loaded network's blocks to FP8, one weight after another; those that are stay as they are."""
    scales = {}
    for name, weight in list(network.named_parameters()):
        if weight.dtype != FP8 and packable(network, name):
            weight.data, scales[name] = stored(weight.data)
    use_packed(network, scales)


def forget_inputs(layer: torch.nn.Module) -> None:
    """Let a convolution, or all those of a network, keep nothing of what goes in."""
    for module in layer.modules():
        if type(module) is torch.nn.Conv2d:
            module.__class__ = Convolution
            module.register_buffer("scale", None, persistent=False)
