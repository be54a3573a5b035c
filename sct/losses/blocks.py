"""Sums over voxels, one block after the other: intermediate results of all would be the peak of a step's memory.

Letters: B batch, V voxels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sct.models.recompute import recomputed

# of one channel of the whole batch. At 14 classes of 96^3 voxels on two cores this takes half to three quarters of the
# time of all at once; smaller blocks take more
BLOCK_VOXELS = 2**17


def sum_over_blocks(terms: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Each of `terms(*inputs)`, which has to be a sum over voxels, for inputs (B, ..., V).

    No more than a block of voxels is computed at once, and once more in the backward pass.
    """
    size = max(1, BLOCK_VOXELS // len(inputs[0]))
    blocks = zip(*(whole.split(size, dim=-1) for whole in inputs), strict=True)
    sums = [recomputed(terms, *block) for block in blocks]
    return tuple(torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True))
