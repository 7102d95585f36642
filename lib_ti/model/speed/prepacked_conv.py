"""Convolutions of frozen networks on a CPU, with weights that are arranged once instead of at each call.

oneDNN, which computes torch's convolutions there, wants a weight's numbers in an order of its own and brings them into it at
every call. Deep in a UNet, where pictures are small and weights large, that takes longer than the convolution. Here it is done
once, for both directions: the gradient of a convolution's input is itself a convolution, with the weight turned about and its
channels exchanged. The price is a second copy of these weights. The numbers are the same but for their rounding.
"""

from __future__ import annotations

from typing import Any

import torch

from lib_ti.model.memory.malloc import TrimAfter
from lib_ti.model.speed.timing import speedup

SOME_PICTURE = (16, 16)  # without any, oneDNN chooses an order that suits none; with one, it chooses one that suits all
LEAST = 16  # channels; where gradients are wanted, the cheap convolutions from and to latents are left as they are


class Arranged:
    """A weight (out, in, 3, 3) in oneDNN's order, and the convolution with it."""

    def __init__(self, weight: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> None:
        self._how = [*padding], [*stride], [1, 1], 1  # the last: groups
        plain = weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
        arrange: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # as torch's compiler has it done
        self._weight = arrange(plain, *self._how, [1, weight.shape[1], *SOME_PICTURE])

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution of x (b, in, h, w), its channels last in memory."""
        x = x.contiguous(memory_format=torch.channels_last)
        found: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(x, self._weight, bias, *self._how, "none", [], "")
        return found


class _Convolved(torch.autograd.Function):
    """The convolution of an `ArrangedConv2d`, which keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: ArrangedConv2d) -> torch.Tensor:
        ctx.layer = layer
        return layer.ahead(x, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return ctx.layer.back(gradient), None


class ArrangedConv2d(torch.nn.Conv2d):
    """A frozen `torch.nn.Conv2d` whose weight is in `ahead`, and in `back` for the gradient of its input; there is no other."""

    ahead: Arranged
    back: Arranged | None  # None where no gradient is wanted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.back is None:
            return self.ahead(x, self.bias)
        found: torch.Tensor = _Convolved.apply(x, self)  # type: ignore[no-untyped-call]
        return found


@torch.no_grad()
def arrange(network: torch.nn.Module, backward: bool) -> None:
    """Arrange the weights of a loaded network's 3×3 convolutions, one after another; `backward`: for both directions."""
    sweep = TrimAfter()
    for layer in arrangeable(network, backward):
        size = layer.weight.nbytes
        _arrange(layer, backward)
        sweep.freed(2 * size)  # the weight, and on the way once more in another order


def arrangeable(network: torch.nn.Module, backward: bool = True) -> list[torch.nn.Conv2d]:
    """The convolutions of a network that gain by it."""
    return [layer for layer in network.modules() if type(layer) is torch.nn.Conv2d and _suits(layer, backward)]


def _arrange(layer: Any, backward: bool) -> None:
    weight, stride, padding = layer.weight.detach(), layer.stride, layer.padding
    layer.__class__ = ArrangedConv2d
    layer.ahead, layer.back = Arranged(weight, stride, padding), None
    if backward:
        layer.back = Arranged(weight.flip(2, 3).transpose(0, 1), stride, tuple(2 - p for p in padding))
    layer.weight = None  # its memory is free before the next layer's turn


def _suits(layer: torch.nn.Conv2d, backward: bool) -> bool:
    """Whether it gains. 1×1 convolutions do not: oneDNN is slow with them in this form at some sizes."""
    plain = (
        layer.kernel_size == (3, 3) and layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    )
    if not plain or isinstance(layer.padding, str):
        return False
    return not backward or (layer.stride == (1, 1) and min(layer.in_channels, layer.out_channels) >= LEAST)


def can_arrange(dtype: torch.dtype) -> bool:
    """Whether this torch does it, on this processor and in these numbers."""
    try:
        Arranged(torch.ones(LEAST, LEAST, 3, 3, dtype=dtype), (1, 1), (1, 1))(torch.ones(1, LEAST, 4, 4, dtype=dtype))
    except (AttributeError, RuntimeError, TypeError):  # the last: in another release it may take something else
        return False
    return True


@torch.no_grad()
def gain(dtype: torch.dtype) -> float:
    """How many times faster an arranged convolution is than torch's own, with the sizes that are found deep in a UNet."""
    x = torch.ones(1, 1280, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(1280, 1280, 3, 3, dtype=dtype)
    arranged = Arranged(weight, (1, 1), (1, 1))
    return speedup(lambda: torch.nn.functional.conv2d(x, weight, padding=1), lambda: arranged(x))
