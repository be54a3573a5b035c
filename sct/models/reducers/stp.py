"""Soft-topK Token Pruning (STP), from "Sparse Tokens for Dense Prediction", section 3.2.

Letters: B batch, n tokens alive, K tokens kept, C width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.blocks.recompute import recomputed
from sct.models.reducers.base import (
    Reducer,
    Reduction,
    check_ratio,
    hard_top_k,
    keep_count,
    split_order,
    split_top_k,
)
from sct.models.reducers.neighbours import with_neighbours
from sct.models.reducers.scorer import TokenScorer, falling_noise, gumbel_noise
from sct.models.reducers.sensitivity import sensed
from sct.models.tokens import FeatureSpec, Scores, Tokens


class Scorer(TokenScorer):
    """Importance of every token (equation 1)."""

    def __init__(self, dim: int, *, log_sigmoid: bool) -> None:
        super().__init__(dim)
        self.log_sigmoid = log_sigmoid

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, C), patch tokens only -> log-scores (B, n) in float32."""
        logits = self.logits(x).squeeze(-1)
        return F.logsigmoid(logits) if self.log_sigmoid else logits


class STP(Reducer):
    """Keeps the K tokens with the highest scores, K = round((1 - r) n); in training the scores are perturbed.

    Straight-through (equation 2): the forward pass uses the hard top-K mask of the Gumbel-perturbed scores, the
    backward pass the softmax over the n tokens alive. Kept tokens are multiplied by the running product of the masks,
    dropped tokens by its complement; both are exactly 1 and carry the gradient. Tokens are dropped in training and in
    evaluation.

    `gradient="published"` is the paper's gradient. It is about 1/n of the token gradients and far below Adam's usual
    eps of 1e-8. Scorers then change only by weight decay, unless `optimizer.reducer_eps` is tiny, which is the default
    of this project. `gradient="scaled"` multiplies the gradient of the soft mask by n. Not in the paper:
    `gradient="sensitivity"` teaches the scores how much the loss depends on each kept token, see `sensed`.
    `taught=true` is not in the paper: the loss teaches the scores which patches are worth to be kept (`worth` of the
    criterion), and with `gradient="none"` nothing else does; labels are needed in training alone. `noise="falling"`
    makes the noise as wide as the scores of the image, times the share of the training that is left, so that training
    chooses at its end as evaluation does. Published noise does not know how far the scores lie apart.
    `neighbours` above 0 ranks a token also by the best token beside it, see `with_neighbours`; what the scores are
    taught stays the same.
    `rounding="floor"` gives the K of the authors' program. `perturb=false` and `log_sigmoid=false` are the ablations
    of tables 4c and 9, `tau` is varied in table 4d.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    tau: temperature of the softmax in the backward pass
    perturb: whether Gumbel noise is added to the scores in training
    log_sigmoid: whether the scores are log-sigmoids of the logits; false: the logits
    rounding: how the number of kept tokens is rounded: nearest or floor
    gradient: gradient of the scores from the gate: published, scaled (times the number of tokens alive), none, or in
        its place sensitivity (the norm of the loss's gradient ranks the tokens); that needs log_sigmoid=false
    noise: width of the noise: fixed (1, the paper), or falling (the spread of the scores at first, 0 at the end)
    taught: whether the loss teaches the scores what patches are worth (loss.worth); needs log_sigmoid=false
    neighbours: share of a token's rank that the highest score beside it has, 0 to 1; 0: its own score alone (the paper)
    sensitivity_weight: weight of the term of gradient=sensitivity
    """

    changeable = ("ratio", "rounding", "neighbours")
    training_only = ("tau", "perturb", "log_sigmoid", "gradient", "noise", "taught", "sensitivity_weight")

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.9,
        tau: float = 1.0,
        perturb: bool = True,
        log_sigmoid: bool = True,
        rounding: Literal["nearest", "floor"] = "nearest",
        gradient: Literal["published", "scaled", "none", "sensitivity"] = "published",
        noise: Literal["fixed", "falling"] = "fixed",
        taught: bool = False,
        neighbours: float = 0.0,
        sensitivity_weight: float = 0.1,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        if tau <= 0:
            raise UserError(f"encoder.reducer.tau={tau} must be above 0; the paper uses 1.")
        if rounding not in ("nearest", "floor"):
            raise UserError(f"encoder.reducer.rounding={rounding!r} must be 'nearest' or 'floor'.")
        if gradient not in ("published", "scaled", "none", "sensitivity"):
            raise UserError(
                f"encoder.reducer.gradient={gradient!r} must be 'published', 'scaled', 'none' or 'sensitivity'."
            )
        if noise not in ("fixed", "falling"):
            raise UserError(f"encoder.reducer.noise={noise!r} must be 'fixed' or 'falling'.")
        self.ratio, self.tau, self.perturb = ratio, tau, perturb
        self.rounding, self.gradient = rounding, gradient
        if (taught or gradient == "sensitivity") and log_sigmoid:
            raise UserError(
                f"encoder.reducer.taught={taught} with gradient={gradient} teaches the scores as logits: set "
                "encoder.reducer.log_sigmoid=false."
            )
        if not 0 <= neighbours <= 1:
            raise UserError(f"encoder.reducer.neighbours={neighbours} is a share of the rank: give 0 to 1.")
        self.noise, self.taught, self.sensitivity_weight = noise, taught, sensitivity_weight
        self.neighbours, self.grid = neighbours, spec.grid
        self.scorers = nn.ModuleList(Scorer(spec.dim, log_sigmoid=log_sigmoid) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C), dropped (B, n - K, C), in spatial order."""
        n = tokens.x.shape[1]
        k = keep_count(n, ratio=self.ratio, rounding=self.rounding)
        # recomputed in the backward pass: a scorer is cheap, but its activations are five times as large as its input
        scores = recomputed(self.scorers[stage], tokens.x)
        aux, ranks = {f"score_{stage + 1}": scores}, scores
        if self.neighbours > 0:
            ranks = with_neighbours(scores, tokens.index, grid=self.grid, share=self.neighbours)
        ranking = Scores(scores, tokens.index, k, taught="worth" if self.taught else None, ranks=ranks)
        if not self.training:
            keep, drop = split_top_k(self.ranked(ranks, tokens), k=k)
            return Reduction(tokens.take(keep), tokens.take(drop), scores=ranking, aux=aux)
        noise = self.drawn_noise(ranks) if self.perturb else None
        hard, soft = gumbel_soft_top_k(ranks, k=k, tau=self.tau, noise=noise)
        # exactly zero in value: with (hard - soft) + soft the gates below would not be exactly 1
        slope = (soft - soft.detach()) * {"published": 1, "scaled": n}.get(self.gradient, 0)
        losses: dict[str, Tensor] = {}
        if self.gradient == "sensitivity":
            x, term = sensed(tokens.x, scores, hard)
            tokens, losses = replace(tokens, x=x), {f"sensitivity_{stage + 1}": self.sensitivity_weight * term}
        before = tokens.gate if tokens.gate is not None else torch.ones_like(hard)
        order = split_order(hard)
        live = gated(tokens.take(order[:, :k]), (before * (hard + slope)).gather(1, order[:, :k]))
        dropped = gated(tokens.take(order[:, k:]), (before * (1 - hard - slope)).gather(1, order[:, k:]))
        return Reduction(live, dropped, scores=ranking, losses=losses, aux=aux)

    def drawn_noise(self, scores: Tensor) -> Tensor:
        """Noise in the shape of the scores (B, n)."""
        return falling_noise(scores, progress=self.progress) if self.noise == "falling" else gumbel_noise(scores)


def gumbel_soft_top_k(scores: Tensor, *, k: int, tau: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hard and soft mask (B, n) of scores (B, n) plus noise: equation 2, listing 1 of the paper."""
    if noise is not None:
        scores = scores + noise
    return hard_top_k(scores.detach(), k=k), (scores / tau).softmax(dim=1)


def gated(tokens: Tokens, gate: Tensor) -> Tokens:
    """Tokens multiplied by a gate (B, n) of ones; the gate passes the gradient to the scorers."""
    return Tokens(tokens.x * gate.unsqueeze(-1).to(tokens.x.dtype), tokens.index, gate=gate)
