"""Scores that learn how much the loss depends on each token, from the gradient that passes the token.

Letters: B batch, n tokens alive, K tokens kept, C width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sensed(x: Tensor, scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, n, C) unchanged, and a term of the loss, 0 in value, whose gradient teaches the scores (B, n).

    In the backward pass the kept tokens, kept (B, n) 1 or 0, are ranked by the norm of the loss's gradient of x. The
    scores, as logits, get the gradient of the binary cross-entropy with these ranks, from 0 (the least) to 1, mean over
    the images and their kept tokens, times the weight with which the term enters the loss. A token that is dropped is
    not judged: the loss can't tell what it would have been good for.
    """
    return Sensitivity.apply(x, scores, kept)


class Sensitivity(torch.autograd.Function):
    """See `sensed`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(scores, kept)
        return x.view_as(x), scores.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, None]:
        scores, kept = ctx.saved_tensors
        target = ranks_of_kept(grad_x.float().norm(dim=-1), kept)
        return grad_x, weight * kept * (scores.sigmoid() - target) / kept.sum(), None


def ranks_of_kept(values: Tensor, kept: Tensor) -> Tensor:
    """The rank of each kept token's value (B, n) among those of its image, from 0 (least) to 1; others: 0."""
    order = values.masked_fill(kept == 0, -torch.inf).argsort(dim=1).argsort(dim=1)
    count = kept.sum(dim=1, keepdim=True)
    first = values.shape[1] - count  # dropped tokens come first
    return ((order - first) / (count - 1).clamp_min(1)).clamp_min(0)
