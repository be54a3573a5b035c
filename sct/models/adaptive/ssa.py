"""Self-supervised self-attention (SSA), APFormer, section III-B: what a well-converged attention matrix looks like.

Letters: B batch, H heads, N tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SSA:
    """weight * (symmetry_weight * L_sym + entropy_weight * L_en), the mean over heads and images (equation 7).

    `form="paper"`: L_sym = max(1 - S - symmetry_slack, 0) with S the cosine of A and its transpose (equations 3 and 4),
    L_en = max(min_i E_i - entropy_slack, 0) with E_i the entropy of row i over that of an even row (5 and 6).
    `form="program"`, the authors' code: L_sym is the smooth L1 distance of N A and its transpose over the whole
    batch, not counted below symmetry_slack; L_en is divided by 1 - entropy_slack. An even matrix then costs 0.28 and
    the identity 0.08, at weight 1. The paper gives no slacks; these are the program's. The matrix is the softmax of
    the query-key products without positions, as in the program.

    weight: weight of the whole term in the loss
    symmetry_weight: weight of the symmetry of the matrix
    entropy_weight: weight of the entropy of its rows
    symmetry_slack: asymmetry that costs nothing
    entropy_slack: entropy, as a share of an even row's, that costs nothing
    form: paper, or program (the authors' code)
    """

    weight: float = 0.1
    symmetry_weight: float = 0.8
    entropy_weight: float = 0.2
    symmetry_slack: float = 0.1
    entropy_slack: float = 0.9
    form: Literal["paper", "program"] = "paper"

    def __call__(self, attention: Tensor) -> Tensor:
        """Attention matrices (B, H, N, N), rows summing to 1 -> loss, a scalar."""
        scattered = (row_entropy(attention).amin(dim=-1) - self.entropy_slack).clamp_min(0)
        if self.form == "paper":
            skewed = (1 - symmetry(attention) - self.symmetry_slack).clamp_min(0)
        else:
            scattered = scattered / (1 - self.entropy_slack)
            scaled = attention * attention.shape[-1]
            skewed = F.smooth_l1_loss(scaled, scaled.transpose(-2, -1)).clamp_min(self.symmetry_slack)
        return self.weight * (self.symmetry_weight * skewed.mean() + self.entropy_weight * scattered.mean())


def symmetry(attention: Tensor) -> Tensor:
    """Cosine similarity of matrices (B, H, N, N) and their transposes, 1 where symmetric: (B, H). Equation 3."""
    product = (attention * attention.transpose(-2, -1)).sum(dim=(-2, -1))
    return product / attention.square().sum(dim=(-2, -1))


def row_entropy(attention: Tensor) -> Tensor:
    """Entropy of every row of (B, H, N, N) over that of an even row, 0 to 1: (B, H, N). Equation 5."""
    return -torch.special.xlogy(attention, attention.clamp_min(1e-30)).sum(dim=-1) / math.log(attention.shape[-1])
