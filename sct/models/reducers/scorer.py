"""What learned scores share: the small network of DynamicViT and STP, and Gumbel noise.

Letters: B batch, n tokens alive, C width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from sct.models.reducers.base import full_precision


class TokenScorer(nn.Module):
    """Logits of every token from its own and the mean feature of all (STP paper, equation 1).

    Computed in the type of the weights even under mixed precision: in half precision the scores of many tokens
    are equal, so that rounding chooses, and under fp16 the gradients vanish.
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

        weight (B, n): what each token counts in the mean, 1 without it. An image of weights 0 has a mean of 0.
        """
        with full_precision(x.device.type):
            x = self.embed(x)
            local, pooled = x[..., : self.local_dim], x[..., self.local_dim :]
            if weight is None:
                mean = pooled.mean(dim=1, keepdim=True)
            else:
                weight = weight.unsqueeze(-1).to(pooled.dtype)
                mean = (pooled * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
            return self.score(torch.cat([local, mean.expand_as(pooled)], dim=-1)).float()


def gumbel_noise(scores: Tensor) -> Tensor:
    """Gumbel(0, 1) noise in the shape and type of scores, finite in half precision too."""
    tiny = torch.finfo(scores.dtype).tiny
    return -(-torch.rand_like(scores).clamp_min(tiny).log()).clamp_min(tiny).log()
