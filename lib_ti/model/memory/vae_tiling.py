"""The VAE in bands of rows: the same numbers as all at once, but for their rounding, and hardly more than two activations.

A group norm's mean and deviation are of the whole picture, so they are found first; then norm, activation and convolution go
over it band by band, each with the row above and the row below that a 3×3 convolution sees. So there are no seams. Attention is
taken some queries at a time. For inference alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional as F

NUMBERS = 1 << 22  # in a band; 16 MB while they are fp32


class BandedResnet(ResnetBlock2D):  # type: ignore[misc]
    """A residual block without a time, which takes the memory of what it is given for what it gives."""

    def forward(self, x: torch.Tensor, temb: None = None, *_: Any, **__: Any) -> torch.Tensor:
        shortcut, channels = self.conv_shortcut, self.conv2.out_channels
        inner = x.new_empty(len(x), self.conv1.out_channels, *x.shape[2:])
        for band, rows in _convolved(self.norm1, self.conv1, x):
            inner[:, :, band] = rows
        found = x[:, :channels] if channels <= x.shape[1] else x.new_empty(len(x), channels, *x.shape[2:])
        for band, rows in _convolved(self.norm2, self.conv2, inner):
            rows += x[:, :, band] if shortcut is None else shortcut(x[:, :, band])
            found[:, :, band] = rows  # nobody looks at these rows of x any more
        return found


class BandedUpsample(Upsample2D):  # type: ignore[misc]
    """Every pixel four times, then a convolution, without the picture in between."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        c, height, width = x.shape[1:]
        found = x.new_empty(len(x), self.conv.out_channels, 2 * height, 2 * width)
        for band in _bands(height, 4 * c * width):
            rows = F.interpolate(_with_neighbours(x, band), scale_factor=2.0, mode="nearest")
            above, below = 2 * (band.start > 0) - 1, 2 * (band.stop < height) - 1  # rows too many; -1: one is missing
            rows = F.pad(rows, (1, 1, -above, -below))
            found[:, :, 2 * band.start : 2 * band.stop] = F.conv2d(rows, self.conv.weight, self.conv.bias)
        return found


class BandedAttention:
    """Attention of all places of a picture to all, in place of diffusers' own: no more queries at a time than a band holds."""

    def __call__(self, attention: Attention, x: torch.Tensor, temb: None = None, **_: Any) -> torch.Tensor:
        b, c, height, width = x.shape
        places = attention.group_norm(x.view(b, c, height * width)).transpose(1, 2)  # (b, n, c)
        q, k, v = (
            layer(places).unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # (b, heads, n, d)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        found = torch.empty_like(q)
        for band in _bands(height * width, height * width * attention.heads):
            found[:, :, band] = F.scaled_dot_product_attention(q[:, :, band], k, v)
        added: torch.Tensor = attention.to_out[0](found.transpose(1, 2).flatten(2))
        return added.transpose(1, 2).reshape(x.shape).add_(x)


def use(vae: torch.nn.Module) -> None:
    """Let a VAE, or a part of it, work in bands from now on, in the blocks that it can be done in."""
    for module in vae.modules():
        if type(module) is ResnetBlock2D and _is_plain(module):
            module.__class__ = BandedResnet
        elif type(module) is Upsample2D and module.name == "conv" and module.norm is None and _has_weight(module.conv):
            module.__class__ = BandedUpsample
        elif isinstance(module, Attention) and _is_usual(module):
            module.set_processor(BandedAttention())


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        block.time_emb_proj is None
        and _has_weight(block.conv1)
        and not (block.up or block.down)
        and block.output_scale_factor == 1.0
        and isinstance(block.nonlinearity, torch.nn.SiLU)
    )


def _has_weight(conv: Any) -> bool:
    """Whether it is a convolution whose weight is its own, and not arranged for oneDNN."""
    return isinstance(conv, torch.nn.Conv2d) and conv.weight is not None


def _is_usual(attention: Attention) -> bool:
    return (
        attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.residual_connection
        and attention.rescale_output_factor == 1.0
    )


def _convolved(
    norm: torch.nn.GroupNorm, conv: torch.nn.Conv2d, x: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The 3×3 convolution of SiLU of the group norm of x (b, c, h, w), by bands of rows."""
    height = x.shape[2]
    factor, shift = _affine(norm, x)
    for band in _bands(height, x.shape[1] * x.shape[3]):
        rows = F.silu((_with_neighbours(x, band).float() * factor).add_(shift), inplace=True).to(x.dtype)
        rows = F.pad(rows, (1, 1, int(band.start == 0), int(band.stop == height)))
        yield band, F.conv2d(rows, conv.weight, conv.bias)


def _affine(norm: torch.nn.GroupNorm, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a group norm multiplies x (b, c, h, w) with and adds then, each (b, c, 1, 1) fp32."""
    b, c, height, width = x.shape
    counts, means, squares = [], [], []
    for band in _bands(height, c * width):
        rows = x[:, :, band].float().reshape(b, norm.num_groups, -1)
        variance, mean = torch.var_mean(rows, dim=-1, correction=0)
        counts.append(rows.shape[-1] / (c // norm.num_groups * height * width))
        means.append(mean.double())
        squares.append(variance.double() + mean.double().square())
    mean = torch.stack([m * n for m, n in zip(means, counts, strict=True)]).sum(0)  # (b, groups)
    variance = torch.stack([s * n for s, n in zip(squares, counts, strict=True)]).sum(0) - mean.square()
    deviation = (variance.clamp(min=0) + norm.eps).sqrt()

    def by_channel(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(c // norm.num_groups, dim=1)  # (b, c)

    factor = norm.weight.double() / by_channel(deviation)
    shift = norm.bias.double() - by_channel(mean) * factor
    return factor.float()[:, :, None, None], shift.float()[:, :, None, None]


def _bands(height: int, numbers: int) -> Iterator[slice]:
    """The rows of a picture in bands; `numbers` in each row."""
    rows = max(1, NUMBERS // numbers)
    for first in range(0, height, rows):
        yield slice(first, min(first + rows, height))


def _with_neighbours(x: torch.Tensor, band: slice) -> torch.Tensor:
    """The rows of a band and the one above and below it, where there are."""
    return x[:, :, max(0, band.start - 1) : band.stop + 1]
