"""Frozen layers that save memory: weights in FP8, and no saved inputs.

Nothing here is trained, so the backward pass needs only the gradient of a layer's input, which depends on the weight but not
on the input. torch's own convolution saves its input all the same; `FrozenConv2d` does not.

FP8 is E4M3 (Micikevicius et al., "FP8 Formats for Deep Learning", 2022) with one scale per output channel. Weights are
dequantized to the dtype of the layer's input at each use, forward and backward, and the result is not saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from lib_ti.model.memory.replacement import replace_module, replace_modules

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0

QUANTIZED_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "text_model.encoder.")
"""They hold nearly all weights. The small layers before and after them affect everything, so they keep their precision."""


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (out, ...) in FP8 and its scale (out, 1, ...) fp32 per output channel."""
    values = weight.float()
    amax = values.abs().amax(dim=tuple(range(1, values.ndim)), keepdim=True)
    scale = torch.where(amax > 0, amax / FP8_MAX, torch.ones_like(amax))
    return (values / scale).to(FP8), scale


def dequantize(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of `quantize`, in `dtype`; without a scale the weight itself."""
    return weight if scale is None else weight.to(dtype).mul_(scale.to(dtype))


class _Fp8LinearFunction(torch.autograd.Function):
    """x @ weight.T + bias; dequantizes the weight again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, dequantize(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        return gradient @ dequantize(weight, scale, gradient.dtype), None, None, None


class _FrozenConvFunction(torch.autograd.Function):
    """A convolution that saves only its weight for the backward pass. `geometry`: stride, padding, dilation, groups."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any, geometry: Any) -> torch.Tensor:
        ctx.save_for_backward(*((weight,) if scale is None else (weight, scale)))
        ctx.geometry, ctx.shape = geometry, x.shape
        return F.conv2d(x, dequantize(weight, scale, x.dtype), bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = (*ctx.saved_tensors, None)[:2]
        stride, padding, dilation, groups = ctx.geometry
        # stands in for the input, of which only the shape is used
        x = gradient if gradient.shape == ctx.shape else gradient.new_empty(ctx.shape)
        gradients = torch.ops.aten.convolution_backward(
            gradient, x, dequantize(weight, scale, gradient.dtype), None, stride, padding, dilation, False, [0, 0],
            groups, [True, False, False],
        )  # fmt: skip
        return gradients[0], None, None, None, None


class Fp8Linear(torch.nn.Linear):
    """Takes over a frozen `torch.nn.Linear` whose weight is FP8."""

    scale: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, scale: torch.Tensor) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Fp8LinearFunction.apply(x, self.weight, self.scale, self.bias)  # type: ignore[no-untyped-call]
        return y


class FrozenConv2d(torch.nn.Conv2d):
    """Takes over a frozen `torch.nn.Conv2d` and saves none of its inputs. `scale`: of an FP8 weight, else None."""

    scale: torch.Tensor | None

    def __init__(self, conv: torch.nn.Conv2d, scale: torch.Tensor | None = None) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
            conv.groups, conv.bias is not None, conv.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        y: torch.Tensor = _FrozenConvFunction.apply(x, self.weight, self.scale, self.bias, geometry)  # type: ignore[no-untyped-call]
        return y


def freeze_convolutions(network: torch.nn.Module) -> None:
    """Let no convolution of a frozen network save its input."""
    replace_modules(network, {torch.nn.Conv2d: FrozenConv2d})


def is_quantizable(network: torch.nn.Module, name: str) -> bool:
    """Whether the parameter `name` is the weight of a linear layer or convolution within the network's blocks."""
    module_name, _, parameter = name.rpartition(".")
    return (
        parameter == "weight"
        and name.startswith(QUANTIZED_BLOCKS)
        and isinstance(network.get_submodule(module_name), (torch.nn.Linear, torch.nn.Conv2d))
    )


def use_fp8_layers(network: torch.nn.Module, scales: Mapping[str, torch.Tensor]) -> None:
    """Let the layers whose weights are FP8 already compute with them; `scales`: by the weights' names."""
    for name, scale in scales.items():
        module_name = name.rpartition(".")[0]
        layer: Any = network.get_submodule(module_name)
        layer_class = Fp8Linear if isinstance(layer, torch.nn.Linear) else FrozenConv2d
        replace_module(network, module_name, layer_class(layer, scale))


@torch.no_grad()
def quantize_network(network: torch.nn.Module) -> None:
    """Quantize the blocks of a loaded network to FP8 in place, one weight after another; FP8 weights stay as they are."""
    scales = {}
    for name, weight in list(network.named_parameters()):
        if weight.dtype != FP8 and is_quantizable(network, name):
            weight.data, scales[name] = quantize(weight.data)
    use_fp8_layers(network, scales)
