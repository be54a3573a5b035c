"""Self-supervised self-attention (SSA), APFormer, section III-B: a loss on the attention matrix.

Letters: B batch, H heads, N tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.config.parts import part


@part
@dataclass(frozen=True, kw_only=True)
class SSA:
    """weight * (symmetry_weight * L_sym + entropy_weight * L_en), mean over heads and images (equation 7).

    `form="paper"`: L_sym = max(1 - S - symmetry_slack, 0), where S is the cosine similarity of A and its transpose
    (equations 3 and 4). L_en = max(min_i E_i - entropy_slack, 0), where E_i is the entropy of row i divided by the
    entropy of a uniform row (equations 5 and 6).
    `form="program"`, the authors' code: L_sym is the smooth L1 distance of N A and its transpose over the whole batch,
    and at least symmetry_slack. L_en is divided by 1 - entropy_slack. At weight 1 the loss of a uniform matrix is 0.28
    and of the identity 0.08.
    The paper gives no slacks; the defaults are the program's. As in the program, the matrix is the softmax of the
    query-key products without positions.

    weight: weight of the SSA term in the loss
    symmetry_weight: weight of the symmetry term
    entropy_weight: weight of the entropy term
    symmetry_slack: asymmetry below which the symmetry term is constant
    entropy_slack: row entropy, as a share of the entropy of a uniform row, below which the entropy term is zero
    form: paper, or program (the authors' code)
    """

    weight: float = 0.1
    symmetry_weight: float = 0.8
    entropy_weight: float = 0.2
    symmetry_slack: float = 0.1
    entropy_slack: float = 0.9
    form: Literal["paper", "program"] = "paper"

    def __call__(self, attention: Tensor) -> Tensor:
        """Attention matrices (B, H, N, N), each row with sum 1 -> loss, a scalar."""
        entropy_loss = (row_entropy(attention).amin(dim=-1) - self.entropy_slack).clamp_min(0)
        if self.form == "paper":
            symmetry_loss = (1 - symmetry(attention) - self.symmetry_slack).clamp_min(0)
        else:
            entropy_loss = entropy_loss / (1 - self.entropy_slack)
            scaled = attention * attention.shape[-1]
            symmetry_loss = F.smooth_l1_loss(scaled, scaled.transpose(-2, -1)).clamp_min(self.symmetry_slack)
        return self.weight * (self.symmetry_weight * symmetry_loss.mean() + self.entropy_weight * entropy_loss.mean())


def symmetry(attention: Tensor) -> Tensor:
    """Cosine similarity of matrices (B, H, N, N) and their transposes (equation 3): (B, H), 1 if symmetric."""
    product = (attention * attention.transpose(-2, -1)).sum(dim=(-2, -1))
    return product / attention.square().sum(dim=(-2, -1))


def row_entropy(attention: Tensor) -> Tensor:
    """Entropy of each row of (B, H, N, N), divided by the entropy of a uniform row (equation 5): (B, H, N), 0 to 1."""
    return -torch.special.xlogy(attention, attention.clamp_min(1e-30)).sum(dim=-1) / math.log(attention.shape[-1])
