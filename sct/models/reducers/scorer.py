"""Parts of learned scores: the scoring network of DynamicViT and STP, and Gumbel noise.

Letters: B batch, n tokens alive, C width.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from sct.models.reducers.base import full_precision

# standard deviation of Gumbel(0, 1)
GUMBEL_STD = math.pi / math.sqrt(6)


class TokenScorer(nn.Module):
    """Logits of every token from its feature and the mean feature of all tokens (STP paper, equation 1).

    As in the authors' program and in DynamicViT: LayerNorm, Linear, GELU; half of the channels stay with the token, the
    mean of the other half over all tokens is added to them as further channels; an MLP gives the logits. As printed,
    the first MLP would be applied to the mean alone, and the token itself would go on with all its channels.

    Computed in the dtype of the weights, also under mixed precision. In half precision the scores of many tokens are
    equal, so rounding would decide which tokens are kept; in fp16 the gradients vanish.
    """

    small_gradients = True

    def __init__(self, dim: int, *, num_logits: int = 1) -> None:
        super().__init__()
        self.local_dim = dim // 2
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        widths = (dim, dim // 2, dim // 4)
        hidden = (layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.GELU()))
        self.score = nn.Sequential(*hidden, nn.Linear(dim // 4, num_logits))

    def logits(self, x: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """x (B, n, C), patch tokens only -> (B, n, num_logits) in float32.

        weight (B, n): weight of each token in the mean; None: 1. Where all weights of an image are 0, its mean is 0.
        """
        with full_precision(x.device.type):
            # without positions and class token the features of mixed precision are in half precision
            x = self.embed(x.to(next(self.parameters()).dtype))
            local, pooled = x[..., : self.local_dim], x[..., self.local_dim :]
            if weight is None:
                mean = pooled.mean(dim=1, keepdim=True)
            else:
                weight = weight.unsqueeze(-1).to(pooled.dtype)
                mean = (pooled * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
            return self.score(torch.cat([local, mean.expand_as(pooled)], dim=-1)).float()


def falling_noise(scores: Tensor, *, progress: float) -> Tensor:
    """Gumbel noise whose standard deviation is that of the scores (B, n) of each image, times 1 - progress."""
    # not nan where one token is left
    spread = scores.detach().std(dim=1, correction=0, keepdim=True) / GUMBEL_STD
    return gumbel_noise(scores) * spread * (1 - progress)


def gumbel_noise(scores: Tensor) -> Tensor:
    """Gumbel(0, 1) noise in the shape and dtype of scores; finite also in half precision."""
    tiny = torch.finfo(scores.dtype).tiny
    return -(-torch.rand_like(scores).clamp_min(tiny).log()).clamp_min(tiny).log()
