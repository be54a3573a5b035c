"""A decoder without convolutions at full resolution: each token alone gives the voxels of its patch.

Letters: B batch, N tokens of the grid, M tokens that are decoded, C width, W width of a cell, Q classes (or regions),
D dimensions, S spatial size, g grid, s cells along the sides of a patch, t voxels along the sides of a cell: 2, or 1
along an axis whose patch is smaller than along another.
"""

import logging
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import (
    CHANNELS_LAST,
    INSTANCE_NORM,
    size_keeping_conv,
    strided_conv,
    transposed_conv,
)
from sct.models.blocks.layers import init_weights
from sct.models.decoders.base import ALL, TwoStageDecoder, doubling_steps
from sct.models.patch import Extent, kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec

logger = logging.getLogger(__name__)


class Patchwise(TwoStageDecoder):
    """Decodes tokens to cells at half the resolution, adds details of the image there, then predicts the voxels.

    - Rungs double the resolution within a patch until a cell has `width` channels. A rung is Linear(W, 2^D W / 2),
      LayerNorm and GELU; the linear layer equals a transposed convolution with stride = kernel size. Along an axis with
      a smaller patch, the finest rungs keep the resolution: patches of 8 x 8 x 4 have cells of 2 x 2 x 1 voxels.
    - Details, for borders within a patch: two convolutions of the image at half the resolution give `detail` channels.
      An MLP with `hidden` channels joins them with the token's cell. With `detail=0` the image is not used.
    - A transposed convolution gives the logits of the voxels of a cell.

    `skip_above` skips the decoding of a patch under two conditions: its token was dropped by the first stage (APFormer:
    switched off by the gate), and the token alone predicts background with at least this probability. The logits of the
    patch then come from one linear layer on the token instead of rungs and details. The same rule holds in training, so
    the token learns when a patch may be skipped. A patch of n voxels with one foreground voxel should stay below a
    probability of 1 - 1 / n.

    width: channels of a cell (2 voxels along each axis); twice as many at each coarser step
    detail: channels of the image's details at half the resolution, for borders within a patch; 0: image not used
    hidden: channels of the MLP that joins tokens and details
    skip_above: probability of background, such as 0.998, from which a patch dropped by the first stage is not decoded;
        null: all patches are decoded
    """

    reach = 0
    num_alive = 0

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        width: int = 32,
        detail: int = 16,
        hidden: int = 64,
        skip_above: float | None = None,
    ) -> None:
        super().__init__()
        steps = doubling_steps(spec.patch_size, decoder="patchwise")
        if skip_above is not None and not 0.5 <= skip_above < 1:
            raise UserError(
                f"decoder.skip_above={skip_above} is a probability: choose a value from 0.5 to below 1, or null."
            )
        dims = spec.spatial_dims
        if skip_above is not None and not spec.num_depths:
            logger.warning("decoder.skip_above=%s is ignored: this encoder prunes no tokens", skip_above)
            skip_above = None
        self.skip_above, self.overlapping = skip_above, spec.overlapping
        self.stride = cell = steps[0]
        self.cells = tuple(edge // voxels for edge, voxels in zip(spec.patch_size, cell, strict=True))
        self.norm = nn.LayerNorm(spec.dim)
        # one prediction for all cells of a token, from the token alone
        self.flat = nn.Linear(spec.dim, width)
        widths = [spec.dim, *(width * 2**rung for rung in reversed(range(len(steps) - 1)))]
        self.rungs = nn.ModuleList(
            Rung(above, out, step=step)
            for (above, out), step in zip(pairwise(widths), reversed(steps[1:]), strict=True)
        )
        kernel = kernel_at(1, spec.patch_size)
        self.detail = detail_branch(spec.in_channels, detail, cell=cell, kernel_size=kernel) if detail else None
        self.join = nn.Sequential(
            nn.LayerNorm(width + detail), nn.Linear(width + detail, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.head = transposed_conv(width, num_classes, step=cell)
        self.num_features = width
        self.apply(init_weights)
        # cells are in channels-last memory, so the convolutions are, too
        self.memory_format = CHANNELS_LAST[dims]
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> logits (B, Q, *S) in channels-last memory.

        With `skip_above`, aux has `skipped`, the share (B,) of patches that were not decoded.
        """
        features, aux = self.decoded(image, dense)
        return Decoded(self.voxels(features, image), aux=aux)

    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """image (B, C_in, *S), dense tokens (B, N, C) -> cells (B, W, *S / t)."""
        return self.decoded(image, dense)[0]

    def voxels(self, features: Tensor, image: Tensor, rows: slice = ALL) -> Tensor:
        """Cells (B, W, *S / t) -> logits (B, Q, *S); the image is not used again."""
        return self.head(features)[:, :, rows]

    def decoded(self, image: Tensor, dense: Dense) -> tuple[Tensor, dict[str, Tensor]]:
        """image (B, C_in, *S), dense tokens (B, N, C) -> cells (B, W, *S / 2), and values for logs."""
        B, N, _ = dense.x.shape
        x = self.norm(dense.x)
        flat = self.flat(x)
        skipped = self.skipped(flat, dense)
        ones = [1] * len(self.cells)
        x, flat = x.reshape(B * N, *ones, -1), flat.reshape(B * N, *ones, -1)
        detail, aux = None, {}
        if self.detail is not None:
            detail = to_patches(
                self.detail(image.to(memory_format=self.memory_format)).movedim(1, -1), dense.grid
            ).flatten(0, 1)
        if skipped is None:
            cells = self.decode(x, flat, detail)
        elif torch.compiler.is_exporting():
            # an exported graph can't skip patches: it decodes all, and selects the same results
            flat_cells = flat.expand(B * N, *self.cells, -1)
            cells = torch.where(skipped.reshape(B * N, *ones, 1), flat_cells, self.decode(x, flat, detail))
        else:
            rows = (~skipped).flatten().nonzero().squeeze(1)
            if detail is not None:
                detail = detail.index_select(0, rows)
            decoded = self.decode(x.index_select(0, rows), flat.index_select(0, rows), detail)
            cells = flat.expand(B * N, *self.cells, -1).index_copy(0, rows, decoded)
            aux = {"skipped": skipped.float().mean(dim=1)}
        return from_patches(cells.reshape(B, N, *cells.shape[1:]), dense.grid).movedim(-1, 1), aux

    def decode(self, x: Tensor, flat: Tensor, detail: Tensor | None) -> Tensor:
        """Tokens (M, *1, C), their prediction flat (M, *1, W), details (M, *s, detail) -> cells (M, *s, W)."""
        cells = flat
        if self.rungs:
            for rung in self.rungs:
                x = rung(x)
            cells = flat + x
        cells = cells + self.join(cells if detail is None else torch.cat([cells, detail], dim=-1))
        return cells.to(flat.dtype)

    def skipped(self, flat: Tensor, dense: Dense) -> Tensor | None:
        """Which patches (B, N) are not decoded, by the prediction flat (B, N, W); None without `skip_above`."""
        if self.skip_above is None:
            return None
        assert dense.depth is not None
        bias = self.head.bias
        assert bias is not None
        # mean of the head's weights over the voxels of a cell
        weight = self.head.weight.flatten(2).mean(dim=2)
        with torch.autocast(flat.device.type, enabled=False):
            logits = flat.detach().float() @ weight.detach().float() + bias.detach().float()
        background = 1 - logits.sigmoid().amax(dim=-1) if self.overlapping else logits.softmax(dim=-1)[..., 0]
        return (dense.depth == 0) & (background >= self.skip_above)


class Rung(nn.Module):
    """A step up within every patch: a linear layer from each place to prod(step) places, LayerNorm, GELU."""

    def __init__(self, above: int, out: int, *, step: Extent, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.step = step
        self.expand = nn.Linear(above, math.prod(step) * out)
        self.norm = nn.LayerNorm(out, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x (M, *s, above) -> (M, *s step, out)."""
        M, size = x.shape[0], x.shape[1:-1]
        x = self.expand(x).reshape(M, math.prod(size), *self.step, self.norm.normalized_shape[0])
        x = from_patches(x, tuple(size))
        return F.gelu(self.norm(x))


def detail_branch(in_channels: int, width: int, *, cell: Extent, kernel_size: Extent) -> nn.Sequential:
    """Convolutions that turn an image (B, C_in, *S) into details at the resolution of cells: (B, width, *S / t)."""
    return nn.Sequential(
        strided_conv(in_channels, width, step=cell),
        size_keeping_conv(width, width, kernel_size=kernel_size, bias=False),  # no bias: the norm would subtract it
        INSTANCE_NORM[len(cell)](width, affine=True),
        nn.GELU(),
        size_keeping_conv(width, width, kernel_size=kernel_size),
    )


def to_patches(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """x (B, *S, W) cut into the patches of a grid: (B, N, *s, W) with s = S / g."""
    D = len(grid)
    parts = [size for g, length in zip(grid, x.shape[1:-1], strict=True) for size in (g, length // g)]
    order = [0, *range(1, 2 * D, 2), *range(2, 2 * D + 1, 2), 2 * D + 1]
    return x.reshape(x.shape[0], *parts, x.shape[-1]).permute(order).flatten(1, D)


def from_patches(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The inverse of `to_patches`: x (B, N, *s, W) -> (B, *S, W) with S = g s."""
    D, cells = len(grid), x.shape[2:-1]
    order = [0, *(axis for d in range(D) for axis in (1 + d, 1 + D + d)), 1 + 2 * D]
    size = [g * s for g, s in zip(grid, cells, strict=True)]
    return x.reshape(x.shape[0], *grid, *cells, x.shape[-1]).permute(order).reshape(x.shape[0], *size, x.shape[-1])
