"""The values that flow through a segmenter: tokens, what an encoder gives, what a completion gives.

Letters: B batch, N tokens of the whole grid, n tokens alive, K tokens kept, P prefix tokens, C width,
Q classes, S spatial size (2 or 3 dims).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sct.errors import UserError


@dataclass
class Tokens:
    """A set of patch tokens, each with its place in the grid.

    x (B, n, C) features; index (B, n) flat place in the grid, ascending in every image;
    mask (B, n) running product of the keep decisions (its value may be all ones: it then only carries
    the gradient of the scorers), or None when no decision was made or none is differentiable.
    """

    x: Tensor
    index: Tensor
    mask: Tensor | None = None

    def take(self, order: Tensor) -> "Tokens":
        """The tokens at positions `order` (B, K) of this set, in that order."""
        mask = None if self.mask is None else self.mask.gather(1, order)
        return Tokens(gather_tokens(self.x, order), self.index.gather(1, order), mask)


@dataclass(frozen=True)
class FeatureSpec:
    """What an encoder or a completion publishes; the next part is built from it.

    num_stages is the number of pruning stages, num_taps the number of dense snapshots for skip connections.
    """

    image_size: tuple[int, ...]
    in_channels: int
    patch_size: int
    dim: int
    num_heads: int
    num_prefix: int = 0
    num_stages: int = 0
    num_taps: int = 0
    pyramid_channels: tuple[int, ...] = ()

    @property
    def spatial_dims(self) -> int:
        return len(self.image_size)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(size // self.patch_size for size in self.image_size)

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


@dataclass
class Encoded:
    """Sparse features: `final` and the `dropped` sets cover the grid exactly once.

    prefix (B, P, C) class token; dropped has one set per pruning stage, empty ones included;
    taps: dense snapshots (B, N, C) for skip connections; pyramid: convolutional features (B, C_i, *S_i);
    aux: scores and losses of the reducer, by name.
    """

    grid: tuple[int, ...]
    final: Tokens
    prefix: Tensor
    dropped: list[Tokens] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)
    pyramid: list[Tensor] = field(default_factory=list)
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Dense:
    """Features of the whole grid: x (B, N, C), and taps (B, N, C) for skip connections (may be empty)."""

    grid: tuple[int, ...]
    x: Tensor
    taps: list[Tensor] = field(default_factory=list)
    pyramid: list[Tensor] = field(default_factory=list)


@dataclass
class Prediction:
    """logits (B, Q, *S), and the sparse features they came from (pruning depth, losses of a reducer)."""

    logits: Tensor
    encoded: Encoded


def token_grid(image_size: tuple[int, ...], patch_size: int) -> tuple[int, ...]:
    """The grid of patches of an image; UserError when the patch does not divide the size."""
    if any(size % patch_size for size in image_size):
        raise UserError(
            f"data.roi_size={list(image_size)} is not divisible by encoder.patch_size={patch_size}. "
            f"Choose a roi_size of multiples of {patch_size}, or another patch_size."
        )
    return tuple(size // patch_size for size in image_size)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of x (B, N, C) at index (B, K): (B, K, C)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def scatter_tokens(canvas: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
    """A copy of canvas (B, N, C) with tokens (B, K, C) written at index (B, K)."""
    return canvas.scatter(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]), tokens)


def to_grid(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Tokens (B, N, C) as a feature map (B, C, *grid)."""
    B, _, C = x.shape
    return x.transpose(1, 2).reshape(B, C, *grid)


def pruning_depth(encoded: Encoded) -> Tensor:
    """How many pruning stages each place survived: int64 (B, *grid), 0 dropped first, num_stages kept to the end."""
    depth = torch.full_like(encoded.final.index, len(encoded.dropped))
    sets = [(tokens.index, torch.full_like(tokens.index, stage)) for stage, tokens in enumerate(encoded.dropped)]
    index = torch.cat([encoded.final.index, *(where for where, _ in sets)], dim=1)
    value = torch.cat([depth, *(value for _, value in sets)], dim=1)
    return torch.empty_like(index).scatter(1, index, value).reshape(-1, *encoded.grid)
