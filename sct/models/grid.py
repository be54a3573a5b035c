"""Conversions between token sets, sequences and the grid: pure functions on the values of `tokens.py`.

Letters: B batch, N tokens of the grid, n tokens alive, T tokens of a packed set, P prefix tokens, D width, Q classes,
S spatial size.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.tokens import Encoded, Tokens


def patches(x: Tensor, *, size: Sequence[int]) -> Tensor:
    """The patches of an image (B, C, *S), voxels in the order of a convolution's kernel: (B, N, C * prod(size))."""
    B, C, *lengths = x.shape
    grid = [length // edge for length, edge in zip(lengths, size, strict=True)]
    x = x.reshape(B, C, *(length for pair in zip(grid, size, strict=True) for length in pair))
    grid_axes, voxel_axes = range(2, 2 + 2 * len(grid), 2), range(3, 3 + 2 * len(grid), 2)
    return x.permute(0, *grid_axes, 1, *voxel_axes).reshape(B, math.prod(grid), -1)


def assemble(features: Sequence[Tensor], sets: Sequence[Tokens], *, num_tokens: int) -> Tensor:
    """Puts features of token sets at their places in the grid: (B, N, D).

    features: one tensor for each set, in the shape of the set's x, with width D. Places without a token are zero.
    Where a set has a mask, all features are weighted by their masks and added up (appendix E of the STP paper, for
    DynamicViT). Otherwise every place is written once.
    """
    B, D = sets[0].batch_size, features[0].shape[-1]
    rows = torch.cat([(tokens.images() * (num_tokens + 1) + tokens.index).flatten() for tokens in sets])
    # one more row for each image takes the tokens without a place
    canvas = features[0].new_zeros(B * (num_tokens + 1), D)
    if any(tokens.mask is not None for tokens in sets):
        weighted = [weigh(x, tokens).flatten(0, 1) for x, tokens in zip(features, sets, strict=True)]
        canvas = canvas.index_add(0, rows, torch.cat(weighted))
    else:
        canvas = canvas.index_copy(0, rows, torch.cat([x.flatten(0, 1) for x in features]))
    return canvas.reshape(B, num_tokens + 1, D)[:, :num_tokens]


def weigh(x: Tensor, tokens: Tokens) -> Tensor:
    """Features x (B, n, D) of a set times its mask."""
    return x if tokens.mask is None else x * tokens.mask.unsqueeze(-1).to(x.dtype)


def whole_grid(sets: Sequence[Tokens], *, num_tokens: int) -> Tokens:
    """Joins sets that cover the grid exactly once into one set (B, N, C); tokens without a place are left out."""
    x = assemble([tokens.x for tokens in sets], sets, num_tokens=num_tokens)
    return Tokens(x, torch.arange(num_tokens, device=x.device).expand(x.shape[0], -1))


def unmerge(final: Tokens, dropped: Sequence[Tokens], parents: Sequence[Tensor], *, num_tokens: int) -> Tokens:
    """The whole grid (B, N, C), in which every dropped token has the features of its parent.

    parents: for every dropped set, in the shape of its index, the places of the tokens into which its tokens were
    merged. Where a parent is itself in a dropped set, the parent's parent is used, and so on.
    """
    grid = whole_grid([final], num_tokens=num_tokens)
    B, N, C = grid.x.shape
    # for every place the row of its parent, or of itself
    ancestor = torch.arange(B * N, device=grid.x.device)
    for tokens, parent in zip(dropped, parents, strict=True):
        start = tokens.images() * N
        ancestor = ancestor.index_copy(0, (start + tokens.index).flatten(), (start + parent).flatten())
    # every step doubles the number of generations that are followed
    for _ in range(N.bit_length()):
        ancestor = ancestor.index_select(0, ancestor)
    return Tokens(grid.x.flatten(0, 1).index_select(0, ancestor).reshape(B, N, C), grid.index)


def survival(dropped: Sequence[Tokens], *, num_tokens: int) -> list[Tensor]:
    """For each stage, from its dropped set: 1 at places that are alive after the stage, else 0; (B, N) float each."""
    pruned = torch.stack([presence(tokens, num_tokens=num_tokens) for tokens in dropped])
    return list((1 - pruned.cumsum(dim=0)).unbind(0))


def presence(tokens: Tokens, *, num_tokens: int) -> Tensor:
    """1 at the places of the tokens of a set, else 0: (B, N) float; carries the gradient of the set's mask."""
    ones = torch.ones_like(tokens.index, dtype=torch.float32).unsqueeze(-1)
    return assemble([ones], [tokens], num_tokens=num_tokens).squeeze(-1)


def join(prefix: Tensor, tokens: Tokens) -> Tensor:
    """Prefix (B, P, C) and patch tokens of every image as one sequence: (B, P + n, C), or packed (1, B P + T, C)."""
    if tokens.lengths is None:
        return torch.cat([prefix, tokens.x], dim=1)
    pairs = zip(prefix.unbind(0), tokens.per_image(tokens.x), strict=True)
    return torch.cat([part for pair in pairs for part in pair]).unsqueeze(0)


def split(sequence: Tensor, tokens: Tokens, *, num_prefix: int) -> tuple[Tensor, Tensor]:
    """The inverse of `join`, for any values (B, P + n, D) or packed (1, B P + T, D) of a sequence."""
    if tokens.lengths is None:
        return sequence[:, :num_prefix], sequence[:, num_prefix:]
    pieces = sequence.squeeze(0).split([num_prefix + length for length in tokens.lengths])
    prefix = torch.stack([piece[:num_prefix] for piece in pieces])
    return prefix, torch.cat([piece[num_prefix:] for piece in pieces]).unsqueeze(0)


def to_grid(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Tokens (B, N, C) as a feature map (B, C, *grid)."""
    B, _, C = x.shape
    return x.transpose(1, 2).reshape(B, C, *grid)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, Q, *grid) interpolated linearly to (B, Q, *size)."""
    return F.interpolate(x, size=tuple(size), mode={2: "bilinear", 3: "trilinear"}[len(size)])


def pruning_depth(encoded: Encoded) -> Tensor:
    """Number of pruning stages that each place survived: int64 (B, *grid), from 0 (dropped first) to num_stages.

    With a gate (APFormer) it is 0 for tokens that the gate switches off as queries, and 1 for the others.
    """
    if encoded.query_mask is not None:
        return encoded.query_mask.long().reshape(-1, *encoded.grid)
    if encoded.survived:
        return torch.stack(encoded.survived).sum(dim=0).round().long().reshape(-1, *encoded.grid)
    num_tokens = math.prod(encoded.grid)
    depth = torch.stack([stage * presence(tokens, num_tokens=num_tokens) for stage, tokens in enumerate(encoded.sets)])
    return depth.sum(dim=0).round().long().reshape(-1, *encoded.grid)


def foreground_patches(label: Tensor, *, patch_size: tuple[int, ...]) -> Tensor:
    """Whether each patch of labels (B, *S) has any foreground: bool (B, *grid); patch_size: voxels along each axis."""
    pool = {3: F.max_pool2d, 4: F.max_pool3d}[label.ndim]
    return pool((label > 0).float().unsqueeze(1), patch_size, ceil_mode=True).squeeze(1) > 0
