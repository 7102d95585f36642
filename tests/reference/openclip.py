"""OpenCLIP's text encoder, written from its architecture as a yardstick; `state_dict()` has the names of its checkpoints.

Cherti et al., "Reproducible Scaling Laws for Contrastive Language-Image Learning", 2023. Heads are 64 wide.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class TextTransformer(nn.Module):
    def __init__(self, width: int, layers: int, vocabulary: int = 49408, length: int = 77, projection: int = 0) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(width) for _ in range(layers))})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, projection or width))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """What goes into the blocks and comes out of each, all (b, n, width), and the projected features of the end (b, p).

        The end is the first token of the highest number.
        """
        mask = torch.full((ids.shape[1],) * 2, -math.inf).triu(1)
        hidden = [self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]]
        for block in self.transformer["resblocks"]:
            hidden.append(block(hidden[-1], mask))
        last = self.ln_final(hidden[-1])
        return hidden, last[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection
