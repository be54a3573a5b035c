"""How the scores of a pruning method learn what patches are worth.

Letters: B batch, N tokens of the grid, n tokens that a stage ranks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.tokens import Scores, gather_tokens


def worth_loss(scores: Sequence[Scores], worth: Tensor, *, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the scores of every stage with worth (B, N) in [0, 1], mean over stages.

    known (B, N) bool: patches that count; None: all.
    """
    terms = []
    for stage in scores:
        each = F.binary_cross_entropy_with_logits(stage.values, gather_tokens(worth, stage.index), reduction="none")
        counted = torch.ones_like(each) if known is None else gather_tokens(known, stage.index).to(each.dtype)
        terms.append((each * counted).sum() / counted.sum().clamp_min(1))
    return torch.stack(terms).mean()
