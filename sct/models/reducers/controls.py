"""Controls: what pruning costs when the choice of tokens is blind, or the worst one.

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width.
"""

import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.base import Reducer, Reduction, check_ratio, keep_count, split_top_k
from sct.models.reducers.evit import class_attention
from sct.models.tokens import FeatureSpec, Tokens


class Random(Reducer):
    """Keeps K random tokens, K = round((1 - r) n) as in STP.

    In training every image and stage has its own draw. In evaluation one order of the places, drawn from
    `seed`, serves all images: the result doesn't depend on the batch, nor on what was evaluated before.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the alive tokens that is pruned at every such block, 0 to below 1
    rounding: how the number of kept tokens is rounded: nearest, floor or ceil
    seed: seed of the one order that all images have in evaluation
    """

    order: Tensor

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.9,
        rounding: Literal["nearest", "floor", "ceil"] = "nearest",
        seed: int = 0,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        self.ratio, self.rounding = ratio, rounding
        order = random.Random(seed).sample(range(spec.num_tokens), spec.num_tokens)
        # the config's seed and grid say what it is: not part of the weights
        self.register_buffer("order", torch.tensor(order, dtype=torch.float32), persistent=False)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order."""
        scores = torch.rand_like(tokens.index, dtype=torch.float32) if self.training else self.order[tokens.index]
        kept, rest = split_top_k(scores, k=keep_count(tokens.x.shape[1], ratio=self.ratio, rounding=self.rounding))
        return Reduction(tokens.take(kept), tokens.take(rest))


class MinScore(Reducer):
    """Keeps the K tokens that the class token attends to least: EViT turned round, K = round((1 - r) n) as in STP.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the alive tokens that is pruned at every such block, 0 to below 1
    rounding: how the number of kept tokens is rounded: nearest, floor or ceil
    """

    wants = ("class_row",)

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.9,
        rounding: Literal["nearest", "floor", "ceil"] = "nearest",
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        self.ratio, self.rounding = ratio, rounding

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order."""
        scores = class_attention(stats).detach()
        kept, rest = split_top_k(-scores, k=keep_count(tokens.x.shape[1], ratio=self.ratio, rounding=self.rounding))
        return Reduction(tokens.take(kept), tokens.take(rest), aux={f"score_{stage + 1}": scores})
