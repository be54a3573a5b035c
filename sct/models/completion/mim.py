"""Completion as in masked image modelling (MIM), the baseline of the STP paper.

Letters: B batch, N tokens of the grid, K tokens of the final set, P prefix tokens, C encoder width, D completion width.
"""

from dataclasses import replace

import torch
from torch import nn

from sct.models.blocks.layers import Block, init_weights
from sct.models.completion.base import Completion
from sct.models.completion.mta import fixed_positions
from sct.models.grid import assemble, presence, pruning_depth
from sct.models.tokens import Dense, Encoded, FeatureSpec


class MIM(Completion):
    """Fills every place without a final token with one learned mask token; dropped tokens are not used.

    LayerNorm, Linear(C, D), mask tokens, fixed sin-cos positions, `depth` blocks, LayerNorm, Linear(D, C).

    dim: width of the blocks; null: the encoder's width
    depth: number of transformer blocks
    num_heads: number of attention heads; null: the encoder's number
    """

    no_weight_decay = ("mask_token",)

    def __init__(
        self, *, spec: FeatureSpec, dim: int | None = None, depth: int = 1, num_heads: int | None = None
    ) -> None:
        super().__init__()
        dim = dim or spec.dim
        self.spec = replace(spec, num_taps=0)
        self.project = nn.Sequential(nn.LayerNorm(spec.dim, eps=1e-6), nn.Linear(spec.dim, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = fixed_positions(spec, dim=dim)
        self.blocks = nn.Sequential(*(Block(dim, num_heads=num_heads or spec.num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.restore = nn.Linear(dim, spec.dim)
        self.apply(init_weights)

    def forward(self, encoded: Encoded) -> Dense:
        """Sparse tokens -> Dense with x (B, N, C)."""
        P = encoded.prefix.shape[1]
        final, prefix = self.project(encoded.final.x), self.project(encoded.prefix)
        N = self.spec.num_tokens
        missing = 1 - presence(encoded.final, num_tokens=N).unsqueeze(-1).to(final.dtype)
        canvas = assemble([final], [encoded.final], num_tokens=N) + missing * self.mask_token
        x = torch.cat([prefix, canvas], dim=1) + self.position
        x = self.restore(self.norm(self.blocks(x)))
        return Dense(encoded.grid, x[:, P:], pyramid=encoded.pyramid, depth=pruning_depth(encoded).flatten(1))
