"""DynamicViT: a learned decision for each token (Rao et al., 2021), as adapted in appendix E of the STP paper.

Letters: B batch, N tokens of the grid, n tokens alive, K tokens kept, C width; rho = 1 - r, the share kept per stage.
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
from sct.models.tokens import Encoded, FeatureSpec, Scores, Tokens


class KeepScorer(TokenScorer):
    """Log-probabilities to keep and to drop each token."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, num_logits=2)

    def forward(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """x (B, n, C), patch tokens; alive (B, n), earlier decisions, weights the mean -> (B, n, 2) in float32."""
        return self.logits(x, weight=alive).log_softmax(dim=-1)


class DynamicViT(Reducer):
    """Masks tokens in training; in evaluation stage j keeps the K = int(N rho^j) tokens with the highest scores.

    Training: the decision for a token is the hard Gumbel-softmax sample of keep and drop at temperature `tau`
    (straight-through), times the decision of the stage before. All N tokens stay in the sequence; in later blocks a
    dropped token is seen only by itself. The masks of all sets sum to 1, so each place is completed from the set of the
    stage that dropped it. The loss has one more term: `ratio_weight` times the squared difference of the share kept and
    rho^j, mean over stages and images.
    Evaluation: no noise; tokens are removed, the others stay in spatial order (in the authors' program: in the order of
    their scores). All images keep the same number of tokens; in training this number is only the mean.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    tau: temperature of the Gumbel-softmax
    perturb: whether Gumbel noise is added to the scores in training
    ratio_weight: weight of the ratio loss: the squared difference between shares kept and their targets
    taught: whether the loss teaches the scores which patches are worth to be kept (loss.worth); not in the paper
    """

    masks = "attention"
    changeable = ("ratio",)
    training_only = ("tau", "perturb", "ratio_weight", "taught")

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (3, 6, 9),
        ratio: float = 0.3,
        tau: float = 1.0,
        perturb: bool = True,
        ratio_weight: float = 2.0,
        taught: bool = False,
    ) -> None:
        super().__init__(blocks=blocks)
        check_ratio(ratio)
        if tau <= 0:
            raise UserError(f"encoder.reducer.tau={tau} must be above 0; the paper uses 1.")
        if ratio_weight < 0:
            raise UserError(f"encoder.reducer.ratio_weight={ratio_weight} must not be negative; the paper uses 2.")
        self.ratio, self.tau, self.perturb, self.ratio_weight = ratio, tau, perturb, ratio_weight
        self.taught = taught
        self.counts = counts_kept(spec.num_tokens, ratio=ratio, num_stages=len(self.blocks))
        self.scorers = nn.ModuleList(KeepScorer(spec.dim) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> in training live and dropped (B, N, C) with masks, else (B, K, C) and (B, n - K, C)."""
        if not self.training:
            scores = self.scorers[stage](tokens.x)[..., 0]
            ranking = Scores(scores, tokens.index, self.counts[stage])
            keep, drop = split_top_k(self.ranked(scores, tokens), k=ranking.num_kept)
            aux = {f"score_{stage + 1}": scores}
            return Reduction(tokens.take(keep), tokens.take(drop), scores=ranking, aux=aux)
        before = tokens.mask if tokens.mask is not None else torch.ones_like(tokens.index, dtype=torch.float32)
        # recomputed in the backward pass: a scorer is cheap, but its activations are four times as large as its input
        scores = recomputed(self.scorers[stage], tokens.x, before)
        decision = before * gumbel_keep(scores, tau=self.tau, perturb=self.perturb).to(before.dtype)
        ranking = Scores(
            scores[..., 0] - scores[..., 1],
            tokens.index,
            self.counts[stage],
            alive=before.detach(),
            taught="share" if self.taught else None,
        )
        return Reduction(
            Tokens(tokens.x, tokens.index, mask=decision),
            Tokens(tokens.x, tokens.index, mask=before - decision),
            scores=ranking,
            aux={f"score_{stage + 1}": scores[..., 0]},
        )

    def finish(self, encoded: Encoded) -> None:
        """In training, adds the ratio loss."""
        if self.training:
            encoded.losses["ratio"] = self.ratio_weight * ratio_loss(encoded.dropped, ratio=self.ratio)


def counts_kept(num_tokens: int, *, ratio: float, num_stages: int) -> tuple[int, ...]:
    """int(N rho^j), at least 1, for every stage j from 1; computed exactly in decimal, unlike with floats."""
    rho = 1 - Fraction(str(ratio))
    return tuple(max(1, int(num_tokens * rho**j)) for j in range(1, num_stages + 1))


def gumbel_keep(scores: Tensor, *, tau: float, perturb: bool) -> Tensor:
    """Decisions (B, n) of exactly 0 or 1 from the log-probabilities (B, n, 2) to keep and to drop.

    The gradient is the gradient of the softmax of the perturbed scores at temperature tau.
    """
    if perturb:
        scores = scores + gumbel_noise(scores)
    hard = (scores[..., 0] >= scores[..., 1]).to(scores.dtype)
    soft = (scores / tau).softmax(dim=-1)[..., 0]
    return hard + (soft - soft.detach())


def ratio_loss(dropped: Sequence[Tokens], *, ratio: float) -> Tensor:
    """Mean over stages j and images of (share kept - rho^j)^2, from the masks (B, N) of the dropped sets."""
    shares_dropped = [tokens.mask.mean(dim=1) for tokens in dropped if tokens.mask is not None]
    shares_kept = 1 - torch.stack(shares_dropped).cumsum(dim=0)
    targets = [(1 - ratio) ** j for j in range(1, len(shares_dropped) + 1)]
    return (shares_kept - shares_kept.new_tensor(targets).unsqueeze(1)).square().mean()
