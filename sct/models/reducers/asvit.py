"""Adaptive Sparse ViT (AS-ViT): learned thresholds on the class token's attention, under a budget of MACs.

Letters: B batch, N tokens of the grid, P prefix tokens, n tokens alive, T tokens of a packed batch, H heads, C width.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.base import Reducer, Reduction, split_top_k
from sct.models.tokens import Encoded, FeatureSpec, Tokens

# the paper's thresholds and temperature are for this many tokens: 224 x 224 in patches of 16
PAPER_TOKENS = 196


class ASViT(Reducer):
    """Keeps the tokens whose score exceeds their stage's threshold: every image as many as it needs (section 3).

    The score is the class token's attention to a token, every head weighted by the norm of the token's context
    (equations 5 to 7); `head_importance=false` is the plain mean over heads. An image always keeps its best token.
    Training keeps all tokens and masks the dropped ones, decisions accumulating over the stages; `masking` says
    where: in attention, which is what evaluation does, or in the MLP's update, where dropped tokens are still seen
    (the paper's worse one). The mask is hard forward and a sigmoid backward (equation 9), so `temperature` acts on
    gradients alone. The paper's 1e4 leaves thresholds without any where no score is near, as with the even attention
    of a new network: they then stay where they are. 1e3 moves them, and on very uneven scores landed within 2 % of
    the budget where 1e4 missed by up to 6 %.

    `thresholds` and `temperature` are for 196 tokens and scaled to N: theta x 196 / N, temperature x N / 196. One
    number for `thresholds` is that of stage 1, and j times it is that of stage j. The parameter is theta x N /
    `threshold_rate`: Adam moves theta by up to learning rate x `threshold_rate` of the mean score 1/N a step, with 10
    and 1e-3 a hundredth (the paper: 0.004). A vector gets no weight decay: without a gradient it stays.

    The budget loss (equation 10) is `budget_weight` x |mean MACs over the batch - `budget` x dense MACs|, both with
    class token. `budget_unit=relative` counts shares of the dense cost, so a weight means the same for every network;
    `giga` counts 1e9 MACs as the paper does: 4.6 at its size, 0.02 for a toy, 200 for a ViT-B on 96^3 in patches of 8.
    The default weight of 9.2 shares is the paper's 2 at its 4.6 G.

    Evaluation drops tokens for real: `batch_rule=image` every image by itself, as if it were alone (but for a score
    that equals the threshold to rounding); `mean` as the paper: all keep the mean number over the batch, so that a
    result depends on the other images.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    thresholds: score below which tokens are dropped, at 196 tokens: one number for stage 1 (stage j: j times it), or a
        list
    temperature: slope of the sigmoid that is the mask's gradient, at 196 tokens
    threshold_rate: largest step of a threshold, as a multiple of the learning rate and of the mean score
    head_importance: weigh the heads by the norm of the token's context; false: plain mean over heads
    masking: what the mask acts on in training: attention or activation
    batch_rule: evaluation: image (every image keeps its own number) or mean (all keep the mean number of the batch)
    budget: share of the dense MACs that a network may cost, 0 to 1
    budget_weight: weight of the distance to the budget in the loss
    budget_unit: unit of that distance: relative (shares of the dense cost) or giga (1e9 MACs)
    """

    wants = ("class_row", "head_norms")
    by_image = True
    # of the thresholds, the only parameters
    small_gradients = True

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (4, 7, 10),
        thresholds: float | Sequence[float] = 0.001,
        temperature: float = 1e3,
        threshold_rate: float = 10.0,
        head_importance: bool = True,
        masking: Literal["attention", "activation"] = "attention",
        batch_rule: Literal["image", "mean"] = "image",
        budget: float = 0.65,
        budget_weight: float = 9.2,
        budget_unit: Literal["relative", "giga"] = "relative",
    ) -> None:
        super().__init__(blocks=blocks)
        if isinstance(thresholds, int | float):
            thresholds = [stage * thresholds for stage in range(1, len(self.blocks) + 1)]
        if len(thresholds) != len(self.blocks):
            raise UserError(
                f"encoder.reducer.thresholds={list(thresholds)} must have one value for each of "
                f"encoder.reducer.blocks={list(self.blocks)}, or be one number."
            )
        for name, value in (("temperature", temperature), ("threshold_rate", threshold_rate)):
            if value <= 0:
                raise UserError(f"encoder.reducer.{name}={value} must be above 0.")
        self.spec = spec
        self.thresholds = nn.Parameter(torch.tensor(thresholds, dtype=torch.float32) * PAPER_TOKENS / threshold_rate)
        self.temperature, self.threshold_rate, self.head_importance = temperature, threshold_rate, head_importance
        self.masks, self.batch_rule = masking, batch_rule
        self.budget, self.budget_weight, self.budget_unit = budget, budget_weight, budget_unit
        self.dense_macs = float(encoder_macs([], spec=spec, blocks=self.blocks))
        self.check_budget()

    def check_budget(self) -> None:
        """UserError for a budget that no thresholds reach."""
        least = float(encoder_macs([1.0] * len(self.blocks), spec=self.spec, blocks=self.blocks)) / self.dense_macs
        if not least < self.budget <= 1:
            raise UserError(
                f"encoder.reducer.budget={self.budget} must be at most 1 and above {least:.3f}, the share of the "
                f"dense cost that is left when encoder.reducer.blocks={list(self.blocks)} of "
                f"encoder.depth={self.spec.depth} keep one token; prune earlier or raise the budget."
            )

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> in training all of them twice, with complementary masks; else packed live and dropped.

        With `batch_rule=mean`, evaluation gives live (B, K, C) and dropped (B, n - K, C) instead.
        """
        scores = token_scores(stats, head_importance=self.head_importance)
        # both in units of 1/N, the mean score of the whole grid
        threshold = self.thresholds[stage] * self.threshold_rate
        margin = scores * self.spec.num_tokens - threshold
        aux = {f"score_{stage + 1}": scores, f"threshold_{stage + 1}": threshold}
        if self.training:
            live, dropped = self.mask(tokens, margin)
        elif self.batch_rule == "mean":
            live, dropped = drop_by_mean(tokens, margin)
        else:
            keep = above_or_best(tokens, margin)
            # a set that loses nothing stays rectangular
            live, dropped = tokens if keep.all() else tokens.select(keep), tokens.select(~keep)
        return Reduction(live, dropped, aux=aux)

    def mask(self, tokens: Tokens, margin: Tensor) -> tuple[Tokens, Tokens]:
        """All tokens (B, n, C) as the set that stays alive and the set dropped here: equation 9, straight through."""
        before = tokens.mask if tokens.mask is not None else torch.ones_like(margin)
        hard = above_or_best(tokens, margin).to(margin.dtype)
        soft = (margin * (self.temperature / PAPER_TOKENS)).sigmoid()
        # a slope of value zero, and not (hard - soft) + soft: masks must be exactly 0 or 1
        decision = hard + (soft - soft.detach())
        live = Tokens(tokens.x, tokens.index, mask=before * decision)
        return live, Tokens(tokens.x, tokens.index, mask=before * (1 - decision))

    def finish(self, encoded: Encoded) -> None:
        """Adds the budget loss in training, and for logs tokens_j (B,), macs_share (B,) of the dense cost."""
        alive = alive_counts(encoded, num_tokens=self.spec.num_tokens)
        macs = encoder_macs(alive, spec=self.spec, blocks=self.blocks)
        encoded.aux |= {f"tokens_{stage}": count for stage, count in enumerate(alive, start=1)}
        encoded.aux["macs_share"] = macs / self.dense_macs
        if self.training:
            unit = 1e9 if self.budget_unit == "giga" else self.dense_macs
            excess = (macs.mean() - self.budget * self.dense_macs) / unit
            encoded.losses["budget"] = self.budget_weight * excess.abs()


def token_scores(stats: AttentionStats, *, head_importance: bool) -> Tensor:
    """Scores (B, n) of tokens from their statistics (B, n, H), at least in float32: equations 5 to 7.

    Those of all tokens of an image, class token included, sum to about 1.
    """
    assert stats.class_row is not None
    assert stats.head_norms is not None
    dtype = torch.promote_types(stats.class_row.dtype, torch.float32)
    row, norms = stats.class_row.to(dtype), stats.head_norms.to(dtype)
    if not head_importance:
        return row.mean(dim=-1)
    return (row * norms / (norms.sum(dim=-1, keepdim=True) + 1e-8)).sum(dim=-1)


def above_or_best(tokens: Tokens, margin: Tensor) -> Tensor:
    """Which tokens have a positive margin (B, n) or (1, T), or the highest of their image: bool of that shape."""
    margin = margin.detach()
    if tokens.mask is not None:
        margin = margin.masked_fill(tokens.mask < 0.5, -torch.inf)
    best = torch.stack([part.max() for part in tokens.per_image(margin)])
    return (margin > 0) | (margin == best[tokens.images()])


def drop_by_mean(tokens: Tokens, margin: Tensor) -> tuple[Tokens, Tokens]:
    """Live and dropped tokens where every image keeps the mean number of positive margins (B, n): algorithm 1."""
    k = max(1, int((margin > 0).sum()) // tokens.batch_size)
    kept, lost = split_top_k(margin, k=k)
    return tokens.take(kept), tokens.take(lost)


def alive_counts(encoded: Encoded, *, num_tokens: int) -> list[Tensor]:
    """Patch tokens alive after every stage, (B,) each, with the gradient of the masks in training."""
    counts, alive = [], torch.full((encoded.prefix.shape[0],), float(num_tokens), device=encoded.prefix.device)
    for tokens in encoded.dropped:
        lost = tokens.mask.sum(dim=1) if tokens.mask is not None else tokens.count().to(alive.device)
        alive = alive - lost
        counts.append(alive)
    return counts


def encoder_macs(alive: Sequence[Tensor | float], *, spec: FeatureSpec, blocks: Sequence[int]) -> Tensor:
    """MACs of patch embedding and blocks with `alive` patch tokens after every one of `blocks`; [] is dense.

    The class token is counted. The paper's targets for DeiT-S (2.973 G at f = 0.65) are those without it; with
    it they are 0.5 % higher.
    """
    embedding = spec.num_tokens * spec.dim * spec.in_channels * spec.patch_size**spec.spatial_dims
    macs = torch.tensor(float(embedding))
    for number in range(1, spec.depth + 1):
        # a block at which tokens are dropped still sees them
        stage = min(bisect_left(blocks, number), len(alive))
        count = alive[stage - 1] if stage else spec.num_tokens
        macs = macs + block_macs(count + spec.num_prefix, dim=spec.dim, mlp_ratio=spec.mlp_ratio)
    return macs


def block_macs(n: Tensor | float, *, dim: int, mlp_ratio: float = 4.0) -> Tensor | float:
    """Multiply-accumulates of a block with n tokens: projections, both attention products, MLP (section 3.4)."""
    return 4 * dim**2 * n + 2 * dim * n**2 + 2 * dim * int(dim * mlp_ratio) * n
