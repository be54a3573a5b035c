"""How a first look learns which patches hold foreground.

Letters: B batch, N patches, Q label values, the background among them.
"""

import torch.nn.functional as F
from torch import Tensor

from sct.losses.base import known_mean


def look_loss(logits: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of logits (B, N) with "the patch has foreground", every organ and the background of equal weight.

    counts (B, N, Q): voxels of each label value in a patch. An organ's part is the mean over its voxels in the batch of
    -log(probability of their patch), so that a small organ counts as much as a large one, and a corner of an organ as
    little as it has voxels. The organs together weigh as much as the patches of background alone. A patch without any
    counted voxel is not judged.
    """
    foreground, logits = counts[..., 1:], logits.float()
    voxels = foreground.sum(dim=(0, 1))
    missed = (F.softplus(-logits).unsqueeze(2) * foreground).sum(dim=(0, 1)) / voxels.clamp_min(1)
    organs = missed.sum() / (voxels > 0).sum().clamp_min(1)
    is_background = (counts[..., 0] > 0) & (foreground.sum(dim=2) == 0)
    return (organs + known_mean(F.softplus(logits), is_background)) / 2
