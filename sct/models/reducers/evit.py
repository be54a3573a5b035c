"""EViT: keeps tokens by the class token's attention. "Not all patches are what you need" (Liang et al., 2022).

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width, H heads.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.asvit import token_scores
from sct.models.reducers.base import Reducer, Reduction, check_ratio, keep_count, split_top_k
from sct.models.tokens import FeatureSpec, Scores, Tokens


class EViT(Reducer):
    """Keeps the K = ceil((1 - r) n) tokens with the most attention from the class token, mean over the heads.

    The attention is the one of the block that prunes. Top-K without noise; the choice carries no gradient. The defaults
    are the adaptation in the STP paper (appendix E): pruning after the block, dropped tokens go to the completion.
    The published EViT has `inside_block=true` (pruning between attention and MLP) and `fuse=true`: the sum of the
    dropped tokens, weighted by their attention, goes on as one more token. This fused token has no place in the grid
    (index N) and comes last. The next stage counts and scores it like every other token; a completion does not read it.

    `head_importance` weights the heads by the norm of a token's context, as AS-ViT scores tokens (HS in its tables 2
    and 4). Table 4, the raw attention of a pre-trained network: train with ratio=0, then evaluate with other ratios.

    `schedule="cosine"`: the share kept falls from 1 to 1 - r along half a cosine during the first `schedule_share` of
    the training; evaluation always uses r. The paper prunes at blocks 4, 7, 10 of 12.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    inside_block: prune between attention and MLP, as in the EViT paper; false: after the block
    fuse: whether the dropped tokens go on as one fused token, as in the EViT paper
    head_importance: whether heads are weighted by the norm of the token's context (AS-ViT); false: plain mean
    schedule: share kept during training: constant, or cosine (falls from 1)
    schedule_share: first part of the training during which schedule=cosine falls, above 0 to 1
    """

    wants: tuple[str, ...] = ("class_row",)
    changeable = ("ratio", "inside_block", "fuse", "head_importance")
    training_only = ("schedule", "schedule_share")

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (4, 7, 10),
        ratio: float = 0.3,
        inside_block: bool = False,
        fuse: bool = False,
        head_importance: bool = False,
        schedule: Literal["constant", "cosine"] = "constant",
        schedule_share: float = 0.5,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        if not 0.0 < schedule_share <= 1.0:
            raise UserError(
                f"encoder.reducer.schedule_share={schedule_share} must be a share of the training, "
                "above 0 and at most 1."
            )
        self.ratio, self.inside_block, self.fuse = ratio, inside_block, fuse
        self.schedule, self.schedule_share = schedule, schedule_share
        self.head_importance = head_importance
        if head_importance:
            self.wants = ("class_row", "head_norms", "float32")
        self.num_tokens = spec.num_tokens

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), or (B, K + 1, C) with a fused token, and dropped (B, n - K, C)."""
        attention = token_scores(stats, head_importance=True) if self.head_importance else class_attention(stats)
        n = tokens.x.shape[1]
        k = keep_count(n, ratio=self.current_ratio(), rounding="ceil")
        scores = attention.detach()
        keep, drop = split_top_k(self.ranked(scores, tokens), k=k)
        live, dropped = tokens.take(keep), tokens.take(drop)
        if self.fuse and k < n:
            live = append_fused(live, dropped, weight=attention.gather(1, drop), place=self.num_tokens)
        ranking = Scores(scores, tokens.index, k)
        return Reduction(live, dropped, scores=ranking, aux={f"score_{stage + 1}": scores})

    def current_ratio(self) -> float:
        """The share to drop at this step: `ratio`, or less in the first part of a training with schedule=cosine."""
        done = self.progress / self.schedule_share
        if not self.training or self.schedule == "constant" or done >= 1:
            return self.ratio
        # rounded: the last digits of cos(pi / 2) are above 0 and would keep one more token
        return round(self.ratio * (1 - math.cos(math.pi * done)) / 2, 9)


def class_attention(stats: AttentionStats) -> Tensor:
    """Attention of the class token to every token, mean over the heads: (B, n)."""
    assert stats.class_row is not None
    return stats.class_row.mean(dim=2)


def append_fused(live: Tokens, dropped: Tokens, *, weight: Tensor, place: int) -> Tokens:
    """`live` with one more token, last and of index `place`: the sum of the dropped tokens times weight (B, n - K)."""
    fused = (dropped.x * weight.unsqueeze(-1).to(dropped.x.dtype)).sum(dim=1, keepdim=True)
    index = torch.full_like(live.index[:, :1], place)
    return Tokens(torch.cat([live.x, fused], dim=1), torch.cat([live.index, index], dim=1))
