"""The three networks of Stable Diffusion 1, written from their architecture as a yardstick for those that are loaded.

They take the parameters of an original .yaml, and `state_dict()` has the names of an original checkpoint. Plain torch,
to be read rather than to be fast: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v in each head, for q (b, n, heads d), k and v (b, m, heads d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (b, heads, n or m, d)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores + torch.full_like(scores, -math.inf).triu(1)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def as_tokens(image: Tensor) -> Tensor:
    """(b, c, h, w) as (b, h w, c)"""
    return image.flatten(2).mT


def pointwise(layer: nn.Module, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1×1 convolution, on tokens (b, n, c)."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)


# --- UNet ----------------------------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    def __init__(self, before: int, after: int, time_width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), conv(before, after))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, after))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0), conv(after, after))
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(time)[..., None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class CrossAttention(nn.Module):
    """To itself, where it is given no context."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.to_out(attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GEGLU(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, 2 * after)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, heads, width)
        self.attn2 = CrossAttention(width, heads, context_width)
        self.ff = nn.ModuleDict(
            {"net": nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0), nn.Linear(4 * width, width))}
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff["net"](self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, context_width: int, linear: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1) for _ in range(2)
        )
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, heads, context_width) for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = pointwise(self.proj_in, as_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + pointwise(self.proj_out, tokens).mT.view_as(x)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Layers(nn.Sequential):
    """Layers in a row, each handed what its kind asks for."""

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        for layer in self:
            conditions = {ResBlock: (time,), SpatialTransformer: (context,)}.get(type(layer), ())
            x = layer(x, *conditions)
        return x


class UNetModel(nn.Module):
    """`attention_resolutions` are reductions: 1 is the finest level. `num_res_blocks` may differ from level to level."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        channel_mult: list[int],
        num_res_blocks: int | list[int],
        attention_resolutions: list[int],
        context_dim: int,
        num_heads: int = -1,
        num_head_channels: int = -1,
        transformer_depth: int | list[int] = 1,
        use_linear_in_transformer: bool = False,
        adm_in_channels: int = 0,
        num_classes: str | None = None,
    ) -> None:
        """`adm_in_channels`: width of a vector beside the prompt that it is told too."""
        super().__init__()
        levels = range(len(channel_mult))
        widths = [model_channels * factor for factor in channel_mult]
        counts = num_res_blocks if isinstance(num_res_blocks, list) else [num_res_blocks for _ in levels]
        time_width = 4 * model_channels

        depths = transformer_depth if isinstance(transformer_depth, list) else [transformer_depth for _ in levels]

        def transformer(width: int, depth: int) -> SpatialTransformer:
            heads = num_heads if num_head_channels == -1 else width // num_head_channels
            return SpatialTransformer(width, heads, depth, context_dim, use_linear_in_transformer)

        def block(before: int, level: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(before, widths[level], time_width)]
            if 2**level in attention_resolutions:
                layers.append(transformer(widths[level], depths[level]))
            return layers

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        if adm_in_channels:
            layers = nn.Linear(adm_in_channels, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
            self.label_emb = nn.Sequential(nn.Sequential(*layers))
        self.input_blocks = nn.ModuleList([Layers(conv(in_channels, model_channels))])
        width, skip_widths = model_channels, [model_channels]  # kept: widths of what the way up takes in again
        for level in levels:
            for _ in range(counts[level]):
                self.input_blocks.append(Layers(*block(width, level)))
                width = widths[level]
                skip_widths.append(width)
            if level < levels[-1]:
                self.input_blocks.append(Layers(Downsample(width)))
                skip_widths.append(width)
        self.middle_block = Layers(
            ResBlock(width, width, time_width), transformer(width, depths[-1]), ResBlock(width, width, time_width)
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(levels):
            for index in range(counts[level] + 1):
                layers = block(width + skip_widths.pop(), level)
                width = widths[level]
                if level > 0 and index == counts[level]:
                    layers.append(Upsample(width))
                self.output_blocks.append(Layers(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), conv(width, out_channels))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, beside: Tensor | None = None) -> Tensor:
        time = self.time_embed(sinusoids(t, self.time_embed[0].in_features))
        if beside is not None:
            time = time + self.label_emb(beside)
        skipped = []
        for block in self.input_blocks:
            x = block(x, time, context)
            skipped.append(x)
        x = self.middle_block(x, time, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skipped.pop()], dim=1), time, context)
        return self.out(x)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of times t (b,) at frequencies that fall from 1 to almost 1/10000: (b, width)."""
    frequencies = 10_000 ** (-torch.arange(width // 2) / (width // 2))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# --- VAE -----------------------------------------------------------------------------------------------------------


def vae_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class VaeBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = vae_norm(before), conv(before, after)
        self.norm2, self.conv2 = vae_norm(after), conv(after, after)
        self.nin_shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class VaeAttention(nn.Module):
    """Of every place to every other, in a single head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = vae_norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = as_tokens(self.norm(x))
        attended = attention(*(pointwise(layer, tokens) for layer in (self.q, self.k, self.v)), heads=1)
        return x + pointwise(self.proj_out, attended).mT.view_as(x)


class VaeMiddle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = VaeBlock(width, width), VaeAttention(width), VaeBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class VaeDownsample(nn.Module):
    """Pads at the right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VaeLevel(nn.Module):
    """Blocks, each followed by attention or none of them."""

    def __init__(self, before: int, after: int, count: int, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(VaeBlock(after if i else before, after) for i in range(count))
        self.attn = nn.ModuleList(VaeAttention(after) if attends else nn.Identity() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for block, attend in zip(self.block, self.attn, strict=True):
            x = attend(block(x))
        return x


class Encoder(nn.Module):
    def __init__(
        self, in_channels: int, first: int, widths: list[int], count: int, attends: list[bool], out_channels: int
    ) -> None:
        super().__init__()
        self.conv_in = conv(in_channels, first)
        self.down = nn.ModuleList(map(VaeLevel, [first, *widths[:-1]], widths, [count] * len(widths), attends))
        for level, width in zip(self.down[:-1], widths[:-1], strict=True):
            level.downsample = VaeDownsample(width)
        self.mid = VaeMiddle(widths[-1])
        self.norm_out, self.conv_out = vae_norm(widths[-1]), conv(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down[:-1]:
            x = level.downsample(level(x))
        x = self.mid(self.down[-1](x))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Its levels are numbered as the encoder's are, so it goes through them backwards."""

    def __init__(self, in_channels: int, widths: list[int], count: int, attends: list[bool], out_channels: int) -> None:
        super().__init__()
        self.conv_in = conv(in_channels, widths[-1])
        self.mid = VaeMiddle(widths[-1])
        self.up = nn.ModuleList(map(VaeLevel, [*widths[1:], widths[-1]], widths, [count + 1] * len(widths), attends))
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.norm_out, self.conv_out = vae_norm(widths[0]), conv(widths[0], out_channels)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up[1:]):
            x = level.upsample(level(x))
        return self.conv_out(F.silu(self.norm_out(self.up[0](x))))


class AutoencoderKL(nn.Module):
    """Takes a `ddconfig`. `attn_resolutions` are sides of feature maps, for pictures of side `resolution`."""

    def __init__(
        self,
        in_channels: int,
        out_ch: int,
        ch: int,
        ch_mult: list[int],
        num_res_blocks: int,
        attn_resolutions: list[int],
        resolution: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        widths = [ch * factor for factor in ch_mult]
        attends = [resolution // 2**level in attn_resolutions for level in range(len(widths))]
        self.encoder = Encoder(in_channels, ch, widths, num_res_blocks, attends, 2 * z_channels)
        self.decoder = Decoder(z_channels, widths, num_res_blocks, attends, out_ch)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * z_channels, 1)
        self.post_quant_conv = nn.Conv2d(z_channels, z_channels, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents."""
        mean, log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


# --- text encoder --------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=True))


class TextLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))  # OpenAI's quick GELU


class CLIPTextModel(nn.Module):
    """Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. 64 wide heads."""

    def __init__(self, width: int, layers: int, vocabulary: int = 49408, length: int = 77) -> None:
        super().__init__()
        embeddings = {
            "token_embedding": nn.Embedding(vocabulary, width),
            "position_embedding": nn.Embedding(length, width),
        }
        heads = max(1, width // 64)
        encoder = {"layers": nn.ModuleList(TextLayer(width, heads) for _ in range(layers))}
        self.text_model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(embeddings),
                "encoder": nn.ModuleDict(encoder),
                "final_layer_norm": nn.LayerNorm(width),
            }
        )

    def hidden(self, ids: Tensor) -> list[Tensor]:
        """What goes into the layers and comes out of each, all (b, n, width), for tokens (b, n)."""
        embeddings = self.text_model["embeddings"]
        hidden = [embeddings["token_embedding"](ids) + embeddings["position_embedding"].weight[: ids.shape[1]]]
        for layer in self.text_model["encoder"]["layers"]:
            hidden.append(layer(hidden[-1]))
        return hidden

    def forward(self, ids: Tensor) -> Tensor:
        """Features (b, n, width) of tokens (b, n)."""
        return self.text_model["final_layer_norm"](self.hidden(ids)[-1])
