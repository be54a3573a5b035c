"""Dependency-wise pruning of attention by adaptive thresholds, APFormer, section III-C.

Letters: B batch, H heads, n queries, N keys, D head width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sct.models.blocks.layers import Scheduled


class AdaptiveThreshold(Scheduled):
    """Every row of the attention matrix loses its entries below a threshold that its query decides (equation 13).

    T_i = min A_i + (max A_i - min A_i) sigmoid(W_t q_i) sigmoid(g), W_t and g learned. g starts at -2, so that little
    is pruned, and learns after the share `release_at` of the training (the paper: 100 of 400 rounds). What is left
    of a row is divided by its sum. `renormalize="exponentials"` exponentiates it once more before, as equation 14
    is printed; that makes what is left nearly even.

    In the authors' program the decision carries no gradient, so that W_t and g move by weight decay alone
    (`gradient="published"`; `sharpness` and `release_at` then have no effect). The default passes the gradient
    straight through the decision, as that of sigmoid(sharpness (A - T) / (max A_i - min A_i)).

    release_at: share of the training after which g learns, 0 to 1
    gradient: straight_through, or published (none through the decision)
    sharpness: slope of the sigmoid whose gradient straight_through takes
    renormalize: what the rest of a row is divided by: the sum of its weights, or of their exponentials (equation 14 as
        printed)
    """

    def __init__(
        self,
        *,
        head_dim: int,
        release_at: float = 0.25,
        gradient: Literal["straight_through", "published"] = "straight_through",
        sharpness: float = 10.0,
        renormalize: Literal["weights", "exponentials"] = "weights",
    ) -> None:
        super().__init__()
        self.project = nn.Linear(head_dim, 1, bias=False)
        self.g = nn.Parameter(torch.tensor(-2.0))
        self.release_at, self.gradient = release_at, gradient
        self.sharpness, self.renormalize = sharpness, renormalize

    def forward(self, q: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Queries q (B, H, n, D), attention (B, H, n, N) -> pruned attention (B, H, n, N), share pruned (B,).

        The share is nan where an image has no query.
        """
        low, high = attention.aminmax(dim=-1, keepdim=True)
        # times zero, and not detached: a parameter without a gradient would stall data-parallel training
        g = self.g if self.progress >= self.release_at else self.g.detach() + 0.0 * self.g
        level = self.project(q).sigmoid().to(attention.dtype) * g.sigmoid()
        hard = attention >= low + level * (high - low)
        decision = hard.to(attention.dtype)
        if self.training:
            height = (attention - low) / (high - low).clamp_min(torch.finfo(attention.dtype).tiny)
            rate = self.sharpness if self.gradient == "straight_through" else 0.0
            soft = (rate * (height.detach() - level)).sigmoid()
            decision = decision + (soft - soft.detach())
        values = attention if self.renormalize == "weights" else attention.exp()
        kept = decision * values
        # nan for an image without a query
        share = 1 - decision.detach().flatten(1).mean(dim=1)
        # the highest entry of a row is always kept, so the sum is never zero
        return kept / kept.sum(dim=-1, keepdim=True), share
