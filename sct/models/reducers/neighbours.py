"""Ranks of tokens that know their neighbours.

Letters: B batch, n tokens alive.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def with_neighbours(scores: Tensor, index: Tensor, *, grid: Sequence[int], share: float) -> Tensor:
    """(1 - share) s + share m of every token, m the highest score s of it and of the tokens alive beside it.

    scores (B, n), flat places index (B, n) in the grid of 2 or 3 axes -> (B, n). The diagonal counts as beside: a
    token has up to 3^D - 1 neighbours.

    What belongs together lies together: the border of an organ, of which a patch holds a few voxels, has a low score
    and a neighbour with a high one.
    """
    # no len(): it would fix the number of images of a recorded graph
    placed = scores.new_full((scores.shape[0], math.prod(grid)), float("-inf")).scatter(1, index, scores)
    pool = F.max_pool2d if len(grid) == 2 else F.max_pool3d
    highest = pool(placed.reshape(-1, 1, *grid), kernel_size=3, stride=1, padding=1).flatten(1)
    return (1 - share) * scores + share * highest.gather(1, index)
