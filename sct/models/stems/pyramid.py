"""Direct projections of the maps of a stem to the tokens: Primus V3.

Letters: B batch, C width, m steps between the image and the token grid, k maps, S spatial size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sct.models.blocks.convolutions import PATCH_EMBEDDING, init_he
from sct.models.patch import Extent, halvings

# small enough that the tokens are those of the stem's output alone at first
INITIAL_SCALE = 1e-5


class PyramidEmbedding(nn.Module):
    """The sum of a linear projection of every map of a pyramid to the token grid, each times a learned factor.

    The kernel of a projection is its stride, and covers the places of a map that belong to one token: with patches of
    8^3 voxels, 8^3 places of the map at full resolution, 4^3 at half and 2^3 at a quarter of it.
    """

    def __init__(self, pyramid_channels: Sequence[int], *, dim: int, patch_size: Extent) -> None:
        super().__init__()
        steps = halvings(patch_size)
        assert steps is not None, "a stem's steps are halvings"
        # the last map is one step finer than the tokens
        strides = [covered(steps[len(steps) - number :]) for number in range(len(pyramid_channels), 0, -1)]
        self.projections = nn.ModuleList(
            PATCH_EMBEDDING[len(patch_size)](channels, dim, kernel_size=stride, stride=stride)  # type: ignore[arg-type]
            for channels, stride in zip(pyramid_channels, strides, strict=True)
        )
        self.scales = nn.Parameter(torch.full((len(strides),), INITIAL_SCALE))
        self.projections.apply(init_he)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps (B, channels[i], *S_i), finest first -> (B, C, *grid)."""
        parts = zip(self.scales, self.projections, pyramid, strict=True)
        return torch.stack([scale * project(x) for scale, project, x in parts]).sum(dim=0)


def covered(steps: Sequence[Extent]) -> Extent:
    """The places along each axis (D,) that become one after all of the `steps`."""
    return tuple(math.prod(factors) for factors in zip(*steps, strict=True))
