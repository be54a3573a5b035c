"""Dependency-wise pruning of attention by adaptive thresholds, APFormer, section III-C.

Letters: B batch, H heads, n queries, N keys, D head width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sct.config.parts import part
from sct.models.blocks.layers import Scheduled
from sct.runtime.precision import full_precision


@part
class AdaptiveThreshold(Scheduled):
    """Sets entries of the attention matrix below a threshold to zero; every query has its own threshold (equation 13).

    T_i = min A_i + (max A_i - min A_i) sigmoid(W_t q_i) sigmoid(g), with W_t and g learned. g starts at -2, so that few
    entries are pruned at first; g learns after the share `release_at` of the training (the paper: 100 of 400 rounds).
    The entries that remain in a row are divided by their sum. With `renormalize="exponentials"` they are exponentiated
    before the division, as equation 14 is printed; this makes them nearly equal.

    By default the decision is straight-through, with the gradient of sigmoid(sharpness (A - T) / (max A_i - min A_i)).
    In the authors' program it carries no gradient (`gradient="published"`; `sharpness` then has no effect). What still
    moves W_t and g there is the decay that Adam has in its gradient (L2): both go to 0 by about the learning rate a
    step. For that take `optimizer=adam`; g then moves from the first step on, whatever `release_at` is. With
    `optimizer=adamw` they stay where they start: the decay of W_t is lr * weight_decay of its value, and g has none.

    release_at: share of the training after which g learns, 0 to 1
    gradient: gradient of the decision: straight_through, or published (no gradient)
    sharpness: slope of the sigmoid that gives the straight_through gradient
    renormalize: how the remaining entries of a row are normalised: weights (divided by their sum), or exponentials
        (exponentiated, then divided by their sum: equation 14 as printed)
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

        The share is nan for an image without a query.
        """
        low, high = attention.aminmax(dim=-1, keepdim=True)
        # a gradient of zero, not detached: data-parallel training would wait for the gradient of g
        g = self.g if self.progress >= self.release_at else self.g.detach() + 0.0 * self.g
        with full_precision(q.device.type):
            level = self.project(q.to(self.project.weight.dtype)).sigmoid().to(attention.dtype) * g.sigmoid()
        hard = attention >= low + level * (high - low)
        decision = hard.to(attention.dtype)
        if self.training:
            height = (attention - low) / (high - low).clamp_min(torch.finfo(attention.dtype).tiny)
            rate = self.sharpness if self.gradient == "straight_through" else 0.0
            soft = (rate * (height.detach() - level)).sigmoid()
            decision = decision + (soft - soft.detach())
        values = attention if self.renormalize == "weights" else attention.exp()
        masked = decision * values
        # nan for an image without a query
        share = 1 - decision.detach().flatten(1).mean(dim=1)
        # the highest entry of a row is always kept, so the sum is never zero
        return masked / masked.sum(dim=-1, keepdim=True), share
