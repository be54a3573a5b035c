"""How the scores of a pruning method learn what patches are worth.

Letters: B batch, N tokens of the grid, n tokens that a stage ranks, Q channels of the logits, S spatial size.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.patch import Extent
from sct.models.tokens import Scores, gather_tokens

Worth = Literal["foreground", "boundary", "loss"]


def worth_loss(scores: Sequence[Scores], worth: Tensor, *, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the scores of every stage with worth (B, N), 0 or 1, mean over stages.

    known (B, N) bool: patches that count; None: all. Tokens that an earlier stage masked count in none.
    """
    terms = []
    for stage in scores:
        ranked = torch.ones_like(stage.values) if stage.alive is None else stage.alive.to(stage.values.dtype)
        target = gather_tokens(worth, stage.index)
        if stage.taught == "share":
            target = keep_share(target, num_kept=stage.num_kept, ranked=ranked)
        counted = ranked if known is None else ranked * gather_tokens(known, stage.index)
        each = F.binary_cross_entropy_with_logits(stage.values, target, reduction="none")
        terms.append((each * counted).sum() / counted.sum().clamp_min(1))
    return torch.stack(terms).mean()


def keep_share(worth: Tensor, *, num_kept: int, ranked: Tensor) -> Tensor:
    """Probability to keep each token (B, n), such that num_kept of the `ranked` (B, n) tokens are kept on average.

    First those with worth 1, as many as fit, then the others, with equal chances.
    """
    worthy = (worth * ranked).sum(dim=1, keepdim=True)
    others = ((1 - worth) * ranked).sum(dim=1, keepdim=True)
    first = (num_kept / worthy.clamp_min(1)).clamp_max(1)
    rest = ((num_kept - worthy).clamp_min(0) / others.clamp_min(1)).clamp_max(1)
    return torch.where(worth > 0, first, rest)


@torch.no_grad()
def hard_patches(logits: Tensor, target: Tensor, *, patch_size: Extent, overlapping: bool) -> Tensor:
    """1 for patches whose voxels have more cross-entropy than the mean voxel of the image, else 0: (B, N) float.

    logits (B, Q, *S); target: classes (B, *S), or with `overlapping` regions (B, Q, *S), of which the mean counts.
    """
    if overlapping:
        each = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(dim=1)
    else:
        each = F.cross_entropy(logits.float(), target, reduction="none")
    pool = {3: F.avg_pool2d, 4: F.avg_pool3d}[each.ndim]
    patches = pool(each.unsqueeze(1), patch_size).flatten(1)
    return (patches > patches.mean(dim=1, keepdim=True)).float()
