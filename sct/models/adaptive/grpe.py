"""Gaussian-prior relative position embedding (GRPE), APFormer, section III-B.

Letters: N tokens of the grid, H heads, M different offsets between two places, (h, w) or (d, h, w) the grid.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from sct.config.parts import part


@part
class GRPE(nn.Module):
    """P = G + R, added to the query-key products: a Gaussian of the distance and a learned value of the offset.

    Equations 8 and 9: G_ij = exp(-distance(i, j)^2 / (2 theta^2)) with one learned theta for each head, R one learned
    value for every offset and head, (2h - 1)(2w - 1) offsets in 2-D. `form="paper"` measures distances in patches.
    `form="program"`, the authors' code, measures them as shares of each axis and scales G by 0.01. Every block has its
    own table, as in the program; the paper counts one. The paper gives no initial theta: here, as in the program, theta
    of head 1, 2, ... starts at 0.1, 0.2, ... of the longest axis.

    form: how distances are measured: paper (in patches), or program (the authors' code: as shares of each axis)
    """

    no_weight_decay = ("position_table",)
    distance: Tensor
    index: Tensor

    def __init__(self, *, grid: tuple[int, ...], num_heads: int, form: Literal["paper", "program"] = "paper") -> None:
        super().__init__()
        offsets = torch.tensor(list(itertools.product(*(range(1 - size, size) for size in grid))), dtype=torch.float32)
        unit = torch.tensor(grid if form == "program" else [max(grid)] * len(grid), dtype=torch.float32)
        # theta is a share of the longest axis, so that its step size does not depend on the grid
        self.register_buffer("distance", (offsets / unit).square().sum(dim=1), persistent=False)
        self.register_buffer("index", offset_index(grid), persistent=False)
        self.scale = 0.01 if form == "program" else 1.0
        self.theta = nn.Parameter(torch.arange(1, num_heads + 1) * 0.1)
        self.position_table = nn.Parameter(torch.zeros(num_heads, len(offsets)))

    def forward(self) -> Tensor:
        """P (H, N, N): entry (i, j) is added to the product of query i and key j."""
        return self.by_pair(self.position_table + self.scale * self.gaussian())

    def gaussian(self) -> Tensor:
        """G of every offset, before its scale: (H, M)."""
        return torch.exp(-self.distance / (2 * self.theta.square().unsqueeze(1) + 1e-6))

    def by_pair(self, offset_values: Tensor) -> Tensor:
        """Values of offsets (H, M) for every pair of places (H, N, N)."""
        N = math.isqrt(self.index.numel())
        return offset_values.index_select(1, self.index).reshape(-1, N, N)


def offset_index(grid: tuple[int, ...]) -> Tensor:
    """Number of the offset i - j of each pair of places; the last axis changes fastest: (N * N,) int32."""
    places = torch.stack(torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")).flatten(1)
    number = torch.zeros(places.shape[1], places.shape[1], dtype=torch.int32)
    for size, place in zip(grid, places, strict=True):
        number = number * (2 * size - 1) + (place.unsqueeze(1) - place.unsqueeze(0) + size - 1)
    return number.flatten().int()
