"""Controls of pruning: tokens are chosen at random, or by the lowest score.

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
from sct.models.tokens import FeatureSpec, Scores, Tokens


class Random(Reducer):
    """Keeps K random tokens, K = round((1 - r) n) as in STP.

    In training the tokens are drawn anew for every image and stage. In evaluation all images use one random order of
    the places, drawn from `seed`, so a result depends neither on the batch nor on earlier images.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    rounding: how the number of kept tokens is rounded: nearest, floor or ceil
    seed: seed of the random order that all images use in evaluation
    """

    order: Tensor
    changeable = ("ratio", "rounding", "seed")

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
        # not saved with the weights: seed and grid in the config determine it
        self.register_buffer("order", torch.tensor(order, dtype=torch.float32), persistent=False)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order."""
        scores = torch.rand_like(tokens.index, dtype=torch.float32) if self.training else self.order[tokens.index]
        k = keep_count(tokens.x.shape[1], ratio=self.ratio, rounding=self.rounding)
        keep, drop = split_top_k(self.ranked(scores, tokens), k=k)
        return Reduction(tokens.take(keep), tokens.take(drop))


class MinScore(Reducer):
    """Keeps the K tokens with the least attention from the class token (EViT reversed), K = round((1 - r) n).

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    rounding: how the number of kept tokens is rounded: nearest, floor or ceil
    """

    wants = ("class_row",)
    changeable = ("ratio", "rounding")

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
        ranking = Scores(-scores, tokens.index, keep_count(tokens.x.shape[1], ratio=self.ratio, rounding=self.rounding))
        keep, drop = split_top_k(self.ranked(ranking.values, tokens), k=ranking.num_kept)
        return Reduction(tokens.take(keep), tokens.take(drop), scores=ranking, aux={f"score_{stage + 1}": scores})
