"""Convolutions of frozen networks on a CPU whose weights are packed for oneDNN once instead of at each call.

oneDNN, which computes torch's convolutions on a CPU, reorders the weight into a blocked layout at every call. Deep in a UNet,
where images are small and weights large, that takes longer than the convolution itself. Here it is done once, for both
directions: the gradient of a convolution's input is a convolution with the weight flipped and its channels transposed. The
price is a second copy of these weights. The results differ by rounding only.
"""

from __future__ import annotations

from typing import Any

import torch

from lib_ti.model.memory.malloc import TrimAfter
from lib_ti.model.memory.replacement import replace_module
from lib_ti.model.speed.timing import speedup

INPUT_SIZE = (16, 16)  # oneDNN needs one to choose a layout; without it the layout suits no size, with any it suits all
MIN_CHANNELS = 16  # with gradients; below, as in the convolutions from and to latents, packing gains nothing


class PrepackedWeight:
    """A weight (out, in, 3, 3) in oneDNN's layout, and the convolution with it."""

    def __init__(self, weight: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> None:
        self._geometry = [*padding], [*stride], [1, 1], 1  # padding, stride, dilation, groups
        plain = weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # as torch.compile calls it
        self._weight = reorder(plain, *self._geometry, [1, weight.shape[1], *INPUT_SIZE])

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution of x (b, in, h, w); the result is in channels-last memory format."""
        x = x.contiguous(memory_format=torch.channels_last)
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, bias, *self._geometry, "none", [], ""
        )
        return y


class _PrepackedConvFunction(torch.autograd.Function):
    """The convolution of a `PrepackedConv2d`, which saves no tensors for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PrepackedConv2d) -> torch.Tensor:
        ctx.layer = layer
        return layer.forward_weight(x, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return ctx.layer.backward_weight(gradient), None


class PrepackedConv2d(torch.nn.Module):
    """Takes over a frozen 3×3 `torch.nn.Conv2d`, but not its weight, which is packed. `backward`: for gradients, too."""

    def __init__(self, conv: torch.nn.Conv2d, backward: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.bias = conv.bias
        weight, stride, padding = conv.weight.detach(), conv.stride, tuple(map(int, conv.padding))
        self.forward_weight = PrepackedWeight(weight, stride, padding)
        self.backward_weight: PrepackedWeight | None = None
        if backward:
            transposed = weight.flip(2, 3).transpose(0, 1)
            self.backward_weight = PrepackedWeight(transposed, stride, tuple(2 - p for p in padding))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.backward_weight is None:
            return self.forward_weight(x, self.bias)
        y: torch.Tensor = _PrepackedConvFunction.apply(x, self)  # type: ignore[no-untyped-call]
        return y


@torch.no_grad()
def prepack(network: torch.nn.Module, backward: bool) -> None:
    """Pack the weights of a loaded network's 3×3 convolutions, one after another; `backward`: for gradients, too."""
    trimmer = TrimAfter()
    for name in prepackable(network, backward):
        size = network.get_parameter(f"{name}.weight").nbytes
        conv: Any = network.get_submodule(name)
        replace_module(network, name, PrepackedConv2d(conv, backward))
        del conv  # so that its weight is free before the next layer is packed
        trimmer.freed(2 * size)  # the weight and a temporary copy in channels-last format


def prepackable(network: torch.nn.Module, backward: bool = True) -> list[str]:
    """Names of the network's convolutions that become faster when packed."""
    return [
        name
        for name, module in network.named_modules()
        if type(module) is torch.nn.Conv2d and _is_prepackable(module, backward)
    ]


def _is_prepackable(conv: torch.nn.Conv2d, backward: bool) -> bool:
    """1×1 convolutions do not gain: oneDNN's packed form of them is slow at some sizes."""
    plain_3x3 = (
        conv.kernel_size == (3, 3) and conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    )
    if not plain_3x3 or isinstance(conv.padding, str):
        return False
    return not backward or (conv.stride == (1, 1) and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS)


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch supports packed convolutions in `dtype` on this CPU."""
    weight, x = (
        torch.ones(MIN_CHANNELS, MIN_CHANNELS, 3, 3, dtype=dtype),
        torch.ones(1, MIN_CHANNELS, 4, 4, dtype=dtype),
    )
    try:
        PrepackedWeight(weight, (1, 1), (1, 1))(x)
    except (AttributeError, RuntimeError, TypeError):  # TypeError: another torch release may change the signature
        return False
    return True


@torch.no_grad()
def prepacked_speedup(dtype: torch.dtype) -> float:
    """How many times as fast a packed convolution is as torch's own, at the sizes found deep in a UNet."""
    x = torch.ones(1, 1280, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(1280, 1280, 3, 3, dtype=dtype)
    packed = PrepackedWeight(weight, (1, 1), (1, 1))
    return speedup(lambda: torch.nn.functional.conv2d(x, weight, padding=1), lambda: packed(x))
