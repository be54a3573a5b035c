"""Axial rotary positions: queries and keys are rotated by angles that the place of their token gives.

Rotary positions (RoFormer, Su et al., 2021) for a grid of 2 or 3 axes, as in EVA-02 and Primus. The product of a
rotated query and a rotated key depends on the distance of their places along each axis, and not on the places
themselves. Every token brings its place along, so the rotation holds whichever other tokens were dropped.

Letters: B batch, N tokens of the grid, L sequence length, H heads, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.errors import UserError

# base of the frequencies, as in RoFormer, EVA-02 and Primus
BASE = 10000.0


def rotary_angles(grid: tuple[int, ...], *, head_dim: int) -> Tensor:
    """The angle of each pair of channels of a head, for each place of the grid: (N, D / 2), float64.

    An axis has b = D // (2 axes) pairs. Pair i of an axis has the angle p / 10000^(i / b), where p is the place along
    this axis. The pairs of the first axis come first; pairs that are left over have the angle 0.
    """
    per_axis = head_dim // (2 * len(grid))
    if head_dim % 2 or not per_axis:
        raise UserError(
            f"encoder.rotary=true rotates pairs of channels, at least one for each of {len(grid)} axes, but "
            f"encoder.dim / encoder.num_heads gives heads of {head_dim} channel(s). Choose an even number of at least "
            f"{2 * len(grid)}; a multiple of it uses all channels."
        )
    frequencies = BASE ** -(torch.arange(per_axis, dtype=torch.float64) / per_axis)
    places = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in places], dim=1)
    return F.pad(angles, (0, head_dim // 2 - angles.shape[1]))


def rotary_table(grid: tuple[int, ...], *, head_dim: int) -> Tensor:
    """Cosines, then sines of the angles of every place: (N + 1, D), float32.

    The last row is for tokens without a place in the grid (class token, fused tokens): it rotates nothing.
    """
    angles = F.pad(rotary_angles(grid, head_dim=head_dim), (0, 0, 0, 1))
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys x (B, H, L, D), rotated by the rows (B, L, D) of a `rotary_table` of their tokens; dtype of x.

    Channels 2 i and 2 i + 1 are a pair.
    """
    cos, sin = rotation.unsqueeze(1).chunk(2, dim=-1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(x.dtype)
