"""DynamicViT: a decision for every token by itself (Rao et al., 2021), as adapted in appendix E of the STP paper.

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width; rho = 1 - r share kept a stage.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.blocks.recompute import recomputed
from sct.models.reducers.base import Reducer, Reduction, check_ratio, split_top_k
from sct.models.reducers.scorer import TokenScorer, gumbel_noise
from sct.models.tokens import Encoded, FeatureSpec, Tokens


class KeepScorer(TokenScorer):
    """Log-probabilities of keeping and of dropping every token."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, num_logits=2)

    def forward(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """x (B, n, C), patch tokens; alive (B, n), the decision so far, weighs the mean -> (B, n, 2) in float32."""
        return self.logits(x, weight=alive).log_softmax(dim=-1)


class DynamicViT(Reducer):
    """Trained with masks over all N tokens, evaluated on the K = int(N rho^j) tokens of stage j that score highest.

    Training: a decision is the hard Gumbel-softmax sample of keep and drop at temperature `tau`, straight-through,
    times the decision before. No token is taken away; in later blocks a dropped one is seen by none but itself.
    `ratio_weight` times the squared distance of the shares kept to rho^j, mean over stages and images, is added to
    the loss. The sets are masks that sum to one, so a completion takes from each stage what that stage decided.
    Evaluation: no noise, tokens are dropped for real, in spatial order (the authors' program: by score), and
    every image keeps the same number, which training only approaches on average.
    `perturb=false` trains without noise.
    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the alive tokens that is pruned at every such block, 0 to below 1
    tau: temperature of the Gumbel-softmax
    perturb: Gumbel noise on the decisions in training
    ratio_weight: weight of the squared distance to the shares to keep in the loss
    """

    masks = "attention"

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.3,
        tau: float = 1.0,
        perturb: bool = True,
        ratio_weight: float = 2.0,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        if tau <= 0:
            raise UserError(f"encoder.reducer.tau={tau} must be above 0; the paper uses 1.")
        if ratio_weight < 0:
            raise UserError(f"encoder.reducer.ratio_weight={ratio_weight} must not be negative; the paper uses 2.")
        self.ratio, self.tau, self.perturb, self.ratio_weight = ratio, tau, perturb, ratio_weight
        self.counts = counts_kept(spec.num_tokens, ratio=ratio, num_stages=len(self.blocks))
        self.scorers = nn.ModuleList(KeepScorer(spec.dim) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> in training live and dropped (B, N, C) with masks, else (B, K, C) and (B, n - K, C)."""
        if not self.training:
            keep = self.scorers[stage](tokens.x)[..., 0]
            kept, rest = split_top_k(keep, k=self.counts[stage])
            return Reduction(tokens.take(kept), tokens.take(rest), aux={f"score_{stage + 1}": keep})
        before = tokens.mask if tokens.mask is not None else torch.ones_like(tokens.index, dtype=torch.float32)
        # recomputed in the backward pass: what a scorer keeps is four times its input, what it computes is little
        scores = recomputed(self.scorers[stage], tokens.x, before)
        decision = before * gumbel_keep(scores, tau=self.tau, perturb=self.perturb).to(before.dtype)
        return Reduction(
            Tokens(tokens.x, tokens.index, mask=decision),
            Tokens(tokens.x, tokens.index, mask=before - decision),
            aux={f"score_{stage + 1}": scores[..., 0]},
        )

    def finish(self, encoded: Encoded) -> None:
        """In training, adds the ratio loss."""
        if self.training:
            encoded.losses["ratio"] = self.ratio_weight * ratio_loss(encoded.dropped, ratio=self.ratio)


def counts_kept(num_tokens: int, *, ratio: float, num_stages: int) -> tuple[int, ...]:
    """int(N rho^j) for every stage j from 1, at least 1; exact in decimal, unlike floats."""
    rho = 1 - Fraction(str(ratio))
    return tuple(max(1, int(num_tokens * rho**j)) for j in range(1, num_stages + 1))


def gumbel_keep(scores: Tensor, *, tau: float, perturb: bool) -> Tensor:
    """Decisions (B, n) of exactly 0 or 1 from log-probabilities (B, n, 2) of keeping and dropping.

    The gradient is that of the softmax at temperature tau of the perturbed scores.
    """
    if perturb:
        scores = scores + gumbel_noise(scores)
    hard = (scores[..., 0] >= scores[..., 1]).to(scores.dtype)
    soft = (scores / tau).softmax(dim=-1)[..., 0]
    return hard + (soft - soft.detach())


def ratio_loss(dropped: Sequence[Tokens], *, ratio: float) -> Tensor:
    """Mean over stages j and images of (share kept - rho^j)^2, from the masks (B, N) of what every stage dropped."""
    shares = [tokens.mask.mean(dim=1) for tokens in dropped if tokens.mask is not None]
    kept = 1 - torch.stack(shares).cumsum(dim=0)
    aims = [(1 - ratio) ** j for j in range(1, len(shares) + 1)]
    return (kept - kept.new_tensor(aims).unsqueeze(1)).square().mean()
