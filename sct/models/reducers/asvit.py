"""Adaptive Sparse ViT (AS-ViT): learned thresholds on the class token's attention, with a budget of MACs.

Letters: B batch, N tokens of the grid, P prefix tokens, n tokens alive, T tokens of a packed batch, H heads, C width.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.base import Reducer, Reduction, split_top_k
from sct.models.tokens import Encoded, FeatureSpec, Tokens

# number of tokens in the paper (224 x 224 in patches of 16), for which it gives thresholds and temperature
PAPER_TOKENS = 196


class ASViT(Reducer):
    """Keeps the tokens with a score above the threshold of the stage; the number differs between images (section 3).

    Scores: the class token's attention to a token, each head weighted by the norm of the token's context (equations 5
    to 7); with `head_importance=false` the plain mean over heads. An image always keeps the token with the highest
    score.

    Training: all tokens stay, dropped tokens are masked, and the decisions of the stages accumulate.
    `masking=attention` masks them as keys, which equals evaluation; `masking=activation` masks the MLP's update, and
    dropped tokens are still seen (worse in the paper). The mask is hard in the forward pass and a sigmoid in the
    backward pass (equation 9), so `temperature` changes gradients only. With the paper's 1e4 a threshold gets no
    gradient where no score is near it, such as with the nearly uniform attention of a new network, and does not move.
    With 1e3 it moves; on very uneven scores the cost was then within 2 % of the budget, with 1e4 up to 6 % away from
    it.

    Thresholds: `thresholds` and `temperature` are given for 196 tokens and scaled to N: theta x 196 / N, temperature
    x N / 196. If `thresholds` is one number, the threshold of stage j is j times this number. The parameter is theta
    x N / `threshold_rate`. So one step of Adam changes theta by at most learning rate x `threshold_rate` x 1/N, where
    1/N is the mean score: with 1e-3 and 10, by 0.01 of the mean score (the paper: 0.004). The parameter is a vector and
    gets no weight decay, so without a gradient it does not change.

    Budget loss (equation 10): `budget_weight` x |mean MACs over the batch - `budget` x dense MACs|, both with class
    token. `budget_unit=relative` measures MACs as shares of the dense cost, so that a weight has the same meaning for
    every network. `budget_unit=giga` measures them in 1e9 MACs, as in the paper; the default weight of 9.2 equals the
    paper's weight of 2 at its dense cost of 4.6 G. Dense costs in 1e9 MACs:

    | network | dense cost |
    |---|---|
    | the paper's | 4.6 |
    | a toy network | 0.02 |
    | ViT-B on 96^3 in patches of 8 | 200 |

    Evaluation: tokens are removed. With `batch_rule=image` the result of an image does not depend on its batch (except
    where a score equals the threshold up to rounding). With `batch_rule=mean`, as in the paper, all images keep the
    mean number over the batch, so a result depends on the other images.

    Under mixed precision, scores need the attention of the pruning blocks in float32 (`exact_scores`): kept tokens then
    equal those of float32 for the same features. Without it the norms of the heads are those of rounded context
    vectors, and about one token in a thousand is another; the attention of these blocks is then faster.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    thresholds: score below which tokens are dropped, given for 196 tokens: one number for stage 1 (stage j: j times
        this number), or a list
    temperature: slope of the sigmoid that gives the mask's gradient, for 196 tokens
    threshold_rate: largest step of a threshold, as a multiple of the learning rate and of the mean score
    head_importance: whether heads are weighted by the norm of the token's context; false: plain mean over heads
    masking: effect of the mask in training: attention or activation
    batch_rule: number of tokens kept in evaluation: image (each image has its own number) or mean (all images keep the
        mean number of the batch)
    budget: largest cost of the network, as a share of the dense MACs, 0 to 1
    budget_weight: weight of the distance to the budget in the loss
    budget_unit: unit of the distance to the budget: relative (shares of the dense cost) or giga (1e9 MACs)
    threshold_scale: factor of the learned thresholds in evaluation: above 1 fewer tokens are kept, below 1 more
    exact_scores: whether the attention of pruning blocks is computed in float32 under mixed precision
    """

    wants: tuple[str, ...] = ("class_row", "head_norms")
    by_image = True
    changeable = ("threshold_scale", "head_importance", "batch_rule", "exact_scores")
    training_only = ("temperature", "masking", "budget", "budget_weight", "budget_unit")
    # gradients of the thresholds, which are the only parameters
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
        threshold_scale: float = 1.0,
        exact_scores: bool = True,
    ) -> None:
        super().__init__(blocks=blocks)
        if isinstance(thresholds, int | float):
            thresholds = [stage * thresholds for stage in range(1, len(self.blocks) + 1)]
        if len(thresholds) != len(self.blocks):
            raise UserError(
                f"encoder.reducer.thresholds={list(thresholds)} must be one number, or a list with one "
                f"value for each of encoder.reducer.blocks={list(self.blocks)}."
            )
        positive = {"temperature": temperature, "threshold_rate": threshold_rate, "threshold_scale": threshold_scale}
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"encoder.reducer.{name}={value} must be above 0.")
        self.spec = spec
        self.thresholds = nn.Parameter(torch.tensor(thresholds, dtype=torch.float32) * PAPER_TOKENS / threshold_rate)
        self.temperature, self.threshold_rate, self.head_importance = temperature, threshold_rate, head_importance
        self.masks, self.batch_rule, self.threshold_scale = masking, batch_rule, threshold_scale
        if exact_scores and head_importance:
            self.wants = (*type(self).wants, "float32")
        self.budget, self.budget_weight, self.budget_unit = budget, budget_weight, budget_unit
        self.dense_macs = float(encoder_macs([], spec=spec, blocks=self.blocks))
        self.check_budget()

    def check_budget(self) -> None:
        """UserError for a budget that no threshold can reach."""
        least = float(encoder_macs([1.0] * len(self.blocks), spec=self.spec, blocks=self.blocks)) / self.dense_macs
        if not least < self.budget <= 1:
            raise UserError(
                f"encoder.reducer.budget={self.budget} must be at most 1 and above {least:.3f}, the share of the "
                f"dense cost that remains when encoder.reducer.blocks={list(self.blocks)} of "
                f"encoder.depth={self.spec.depth} keep one token. Prune earlier, or raise the budget."
            )

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> in training both sets have all tokens, and masks; else packed live and dropped sets.

        With `batch_rule=mean`, evaluation gives live (B, K, C) and dropped (B, n - K, C) instead.
        """
        scores = token_scores(stats, head_importance=self.head_importance)
        # threshold and margin are in units of 1/N, the mean score of the whole grid
        threshold = self.thresholds[stage] * self.threshold_rate * (1.0 if self.training else self.threshold_scale)
        margin = scores * self.spec.num_tokens - threshold
        aux = {f"score_{stage + 1}": scores, f"threshold_{stage + 1}": threshold}
        if self.training:
            live, dropped = self.mask(tokens, margin)
        elif self.batch_rule == "mean":
            live, dropped = drop_by_mean(tokens, self.ranked(margin, tokens))
        else:
            margin = self.ranked(margin, tokens)
            keep = above_or_best(tokens, margin)
            # a set that loses no token is not packed
            live, dropped = tokens if keep.all() else tokens.select(keep), tokens.select(~keep)
        return Reduction(live, dropped, aux=aux)

    def mask(self, tokens: Tokens, margin: Tensor) -> tuple[Tokens, Tokens]:
        """All tokens (B, n, C) as the live and as the dropped set, with straight-through masks (equation 9)."""
        before = tokens.mask if tokens.mask is not None else torch.ones_like(margin)
        hard = above_or_best(tokens, margin).to(margin.dtype)
        soft = (margin * (self.temperature / PAPER_TOKENS)).sigmoid()
        # not (hard - soft) + soft, which is not exactly 0 or 1
        decision = hard + (soft - soft.detach())
        live = Tokens(tokens.x, tokens.index, mask=before * decision)
        return live, Tokens(tokens.x, tokens.index, mask=before * (1 - decision))

    def finish(self, encoded: Encoded) -> None:
        """Adds the budget loss in training; for logs, tokens_j (B,) of stage j, and macs_share (B,) of dense MACs."""
        alive = alive_counts(encoded, num_tokens=self.spec.num_tokens)
        macs = encoder_macs(alive, spec=self.spec, blocks=self.blocks)
        encoded.aux |= {f"tokens_{stage}": count for stage, count in enumerate(alive, start=1)}
        encoded.aux["macs_share"] = macs / self.dense_macs
        if self.training:
            unit = 1e9 if self.budget_unit == "giga" else self.dense_macs
            excess = (macs.mean() - self.budget * self.dense_macs) / unit
            encoded.losses["budget"] = self.budget_weight * excess.abs()


def token_scores(stats: AttentionStats, *, head_importance: bool) -> Tensor:
    """Scores (B, n) of tokens from their statistics (B, n, H), in float32 or float64: equations 5 to 7.

    The scores of all tokens of an image, class token included, sum to about 1.
    """
    assert stats.class_row is not None
    assert stats.head_norms is not None
    dtype = torch.promote_types(stats.class_row.dtype, torch.float32)
    row, norms = stats.class_row.to(dtype), stats.head_norms.to(dtype)
    if not head_importance:
        return row.mean(dim=-1)
    return (row * norms / (norms.sum(dim=-1, keepdim=True) + 1e-8)).sum(dim=-1)


def above_or_best(tokens: Tokens, margin: Tensor) -> Tensor:
    """Whether each margin, (B, n) or (1, T), is positive or the highest of its image: bool of the same shape."""
    margin = margin.detach()
    if tokens.mask is not None:
        margin = margin.masked_fill(tokens.mask < 0.5, -torch.inf)
    best = torch.stack([part.max() for part in tokens.per_image(margin)])
    return (margin > 0) | (margin == best[tokens.images()])


def drop_by_mean(tokens: Tokens, margin: Tensor) -> tuple[Tokens, Tokens]:
    """Live and dropped tokens where all images keep the mean number of positive margins (B, n): algorithm 1."""
    k = max(1, int((margin > 0).sum()) // tokens.batch_size)
    keep, drop = split_top_k(margin, k=k)
    return tokens.take(keep), tokens.take(drop)


def alive_counts(encoded: Encoded, *, num_tokens: int) -> list[Tensor]:
    """Number of patch tokens alive after every stage, (B,) each, in training with the gradient of the masks."""
    counts, alive = [], torch.full((encoded.prefix.shape[0],), float(num_tokens), device=encoded.prefix.device)
    for tokens in encoded.dropped:
        count = tokens.mask.sum(dim=1) if tokens.mask is not None else tokens.count().to(alive.device)
        alive = alive - count
        counts.append(alive)
    return counts


def encoder_macs(alive: Sequence[Tensor | float], *, spec: FeatureSpec, blocks: Sequence[int]) -> Tensor:
    """MACs of patch embedding and blocks with `alive` patch tokens after each of `blocks`; [] gives the dense cost.

    The class token is counted. The paper's targets for DeiT-S (2.973 G at f = 0.65) do not count it; with it they are
    0.5 % higher.
    """
    embedding = spec.num_tokens * spec.dim * spec.in_channels * math.prod(spec.patch_size)
    macs = torch.tensor(float(embedding))
    for number in range(1, spec.depth + 1):
        # tokens are dropped after the block, so the block itself still computes them
        stage = min(bisect_left(blocks, number), len(alive))
        count = alive[stage - 1] if stage else spec.num_tokens
        n = count + spec.num_prefix
        macs = macs + block_macs(n, dim=spec.dim, mlp_ratio=spec.mlp_ratio, mlp_layers=spec.mlp_layers)
    return macs


def block_macs(n: Tensor | float, *, dim: int, mlp_ratio: float = 4.0, mlp_layers: int = 2) -> Tensor | float:
    """MACs of a block with n tokens: projections, both attention products, MLP (section 3.4)."""
    return 4 * dim**2 * n + 2 * dim * n**2 + mlp_layers * dim * int(dim * mlp_ratio) * n
