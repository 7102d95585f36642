"""The VAE in tiles of rows: at most about two activations in memory, and the same result as without tiles but for rounding.

A group norm's statistics are those of the whole image, so they are computed first; then norm, activation and convolution run
tile by tile, each with the neighbouring row on either side that a 3×3 convolution reads. So, unlike diffusers' tiled VAE, there
are no seams. Attention is computed for some queries at a time. Inference only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional as F

from lib_ti.model.memory.replacement import replace_modules

TILE_NUMEL = 1 << 22  # elements of a tile: 16 MB in fp32


class TiledResnetBlock(torch.nn.Module):
    """Takes over a `ResnetBlock2D` without time embedding. Overwrites its input with its output where the widths allow."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut

    def forward(self, x: torch.Tensor, temb: None = None, *_: Any, **__: Any) -> torch.Tensor:
        shortcut, channels = self.conv_shortcut, self.conv2.out_channels
        hidden = x.new_empty(len(x), self.conv1.out_channels, *x.shape[2:])
        for tile, rows in _norm_silu_conv(self.norm1, self.conv1, x):
            hidden[:, :, tile] = rows
        output = x[:, :channels] if channels <= x.shape[1] else x.new_empty(len(x), channels, *x.shape[2:])
        for tile, rows in _norm_silu_conv(self.norm2, self.conv2, hidden):
            rows += x[:, :, tile] if shortcut is None else shortcut(x[:, :, tile])
            output[:, :, tile] = rows  # these rows of x are not read again
        return output


class TiledUpsample(torch.nn.Module):
    """Takes over an `Upsample2D` without holding the upsampled image before the convolution."""

    def __init__(self, upsample: Upsample2D) -> None:
        super().__init__()
        self.conv = upsample.conv

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        c, height, width = x.shape[1:]
        output = x.new_empty(len(x), self.conv.out_channels, 2 * height, 2 * width)
        for tile in _tiles(height, 4 * c * width):
            rows = F.interpolate(_with_neighbours(x, tile), scale_factor=2.0, mode="nearest")
            # of the two upsampled neighbour rows one is read; at the border a row of zeros is added instead
            surplus_above, surplus_below = 2 * (tile.start > 0) - 1, 2 * (tile.stop < height) - 1
            rows = F.pad(rows, (1, 1, -surplus_above, -surplus_below))
            output[:, :, 2 * tile.start : 2 * tile.stop] = F.conv2d(rows, self.conv.weight, self.conv.bias)
        return output


class TiledAttnProcessor:
    """A diffusers attention processor: self-attention over all positions, for as many queries at a time as fit a tile."""

    def __call__(self, attention: Attention, x: torch.Tensor, temb: None = None, **_: Any) -> torch.Tensor:
        b, c, height, width = x.shape
        hidden = attention.group_norm(x.view(b, c, height * width)).transpose(1, 2)  # (b, n, c)
        q, k, v = (
            layer(hidden).unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # (b, heads, n, d)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        output = torch.empty_like(q)
        for tile in _tiles(height * width, height * width * attention.heads):
            output[:, :, tile] = F.scaled_dot_product_attention(q[:, :, tile], k, v)
        residual: torch.Tensor = attention.to_out[0](output.transpose(1, 2).flatten(2))
        return residual.transpose(1, 2).reshape(x.shape).add_(x)


def use(vae: torch.nn.Module) -> None:
    """Let a VAE, or its encoder or decoder, work in tiles. Blocks that this module does not support stay as they are."""
    replace_modules(vae, {ResnetBlock2D: _tiled_resnet_block, Upsample2D: _tiled_upsample})
    for module in vae.modules():
        if isinstance(module, Attention) and _is_supported_attention(module):
            module.set_processor(TiledAttnProcessor())


def _tiled_resnet_block(block: ResnetBlock2D) -> torch.nn.Module:
    supported = (
        block.time_emb_proj is None
        and isinstance(block.conv1, torch.nn.Conv2d)
        and not (block.up or block.down)
        and block.output_scale_factor == 1.0
        and isinstance(block.nonlinearity, torch.nn.SiLU)
    )
    return TiledResnetBlock(block) if supported else block


def _tiled_upsample(upsample: Upsample2D) -> torch.nn.Module:
    supported = upsample.name == "conv" and upsample.norm is None and isinstance(upsample.conv, torch.nn.Conv2d)
    return TiledUpsample(upsample) if supported else upsample


def _is_supported_attention(attention: Attention) -> bool:
    return (
        attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.residual_connection
        and attention.rescale_output_factor == 1.0
    )


def _norm_silu_conv(
    norm: torch.nn.GroupNorm, conv: torch.nn.Conv2d, x: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """conv(silu(norm(x))) of x (b, c, h, w) for a 3×3 convolution, tile by tile, with the rows of each tile."""
    height = x.shape[2]
    scale, shift = _group_norm_affine(norm, x)
    for tile in _tiles(height, x.shape[1] * x.shape[3]):
        rows = F.silu((_with_neighbours(x, tile).float() * scale).add_(shift), inplace=True).to(x.dtype)
        rows = F.pad(rows, (1, 1, int(tile.start == 0), int(tile.stop == height)))
        yield tile, F.conv2d(rows, conv.weight, conv.bias)


def _group_norm_affine(norm: torch.nn.GroupNorm, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and shift, each (b, c, 1, 1) fp32, that a group norm applies to x (b, c, h, w); exact for the whole image."""
    b, c, height, width = x.shape
    shares, means, squares = [], [], []
    for tile in _tiles(height, c * width):
        rows = x[:, :, tile].float().reshape(b, norm.num_groups, -1)
        variance, mean = torch.var_mean(rows, dim=-1, correction=0)
        shares.append(rows.shape[-1] / (c // norm.num_groups * height * width))
        means.append(mean.double())
        squares.append(variance.double() + mean.double().square())
    mean = torch.stack([m * n for m, n in zip(means, shares, strict=True)]).sum(0)  # (b, groups)
    variance = torch.stack([s * n for s, n in zip(squares, shares, strict=True)]).sum(0) - mean.square()
    std = (variance.clamp(min=0) + norm.eps).sqrt()

    def by_channel(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(c // norm.num_groups, dim=1)  # (b, c)

    scale = norm.weight.double() / by_channel(std)
    shift = norm.bias.double() - by_channel(mean) * scale
    return scale.float()[:, :, None, None], shift.float()[:, :, None, None]


def _tiles(height: int, row_numel: int) -> Iterator[slice]:
    """Slices of consecutive rows with at most `TILE_NUMEL` elements each, but at least one row."""
    rows = max(1, TILE_NUMEL // row_numel)
    for first in range(0, height, rows):
        yield slice(first, min(first + rows, height))


def _with_neighbours(x: torch.Tensor, tile: slice) -> torch.Tensor:
    """The rows of a tile and the ones above and below it, where there are any."""
    return x[:, :, max(0, tile.start - 1) : tile.stop + 1]
