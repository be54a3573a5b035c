"""A thin U-Net: the tokens are its coarsest level, and skip connections from the image keep the borders.

Letters: B batch, N tokens of the grid, C width of the tokens, Q classes (or regions), S spatial size.
"""

from torch import Tensor, nn

from sct.models.blocks.convolutions import (
    CHANNELS_LAST,
    INSTANCE_NORM,
    FoldedConv,
    size_keeping_conv,
    strided_conv,
    transposed_conv,
)
from sct.models.blocks.layers import init_weights
from sct.models.blocks.sliced import SAME_CONV
from sct.models.decoders.base import ALL, TwoStageDecoder, doubling_steps
from sct.models.decoders.levels import LevelHeads
from sct.models.grid import to_grid
from sct.models.patch import Extent, kernel_at
from sct.models.tokens import Decoded, Dense, FeatureSpec


class Thin(TwoStageDecoder):
    """Joins tokens and image at each resolution between the token grid and half the image, then at full resolution.

    - Contracting path (image): convolutions of kernel and stride 2, to `width` channels at half the resolution and
      twice as many at each coarser step; a 3^D convolution follows each.
    - Expanding path (tokens): a linear layer to the channels of the token grid, then transposed convolutions. The
      image's features are added after each, and a 3^D convolution follows.
    - Full resolution: it has few channels, because memory limits its speed. A 3^D convolution of the image to `voxels`
      channels is added to the up-sampled features. Two flat convolutions follow: one within the planes of the first
      axis, one along this axis to twice as many channels. In evaluation each is a single convolution, see `FoldedConv`.

    Along an axis with a smaller patch, the finest steps have stride and kernel 1, and so have the convolutions there.

    With voxels=0 there is no full resolution: a transposed convolution from half the resolution gives the logits. It is
    faster, and less exact at the borders of small organs.

    width: channels at half the resolution; twice as many at each coarser step
    voxels: channels at full resolution; 0: no convolutions there, faster and less exact at borders
    deep_supervision: also logits of the coarser levels in training, except the coarsest, each with a loss of its own
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_classes: int,
        width: int = 16,
        voxels: int = 0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        steps, dims = doubling_steps(spec.patch_size, decoder="thin"), spec.spatial_dims
        # channels, steps and kernels [i] at 1 / 2^(i + 1) of the resolution; the last channels are of the token grid
        channels = [width * 2**level for level in range(len(steps))]
        kernels = [kernel_at(level, spec.patch_size) for level in range(1, len(steps))]
        self.stride = steps[0]
        self.downs = nn.ModuleList(
            nn.Sequential(strided_conv(above, out, step=step), conv_norm_gelu(out, kernel_size=kernel))
            for above, out, step, kernel in zip(
                [spec.in_channels, *channels], channels[:-1], steps, kernels, strict=False
            )
        )
        linear = nn.Linear(spec.dim, channels[-1])
        self.enter = nn.Sequential(nn.LayerNorm(spec.dim), linear)
        self.ups = nn.ModuleList(
            transposed_conv(2 * out, out, step=step, bias=False)
            for out, step in zip(channels[:-1], steps[1:], strict=True)
        )
        self.joins = nn.ModuleList(
            conv_norm_gelu(out, kernel_size=kernel) for out, kernel in zip(channels[:-1], kernels, strict=True)
        )
        whole = kernel_at(0, spec.patch_size)
        self.whole = (
            FullResolution(spec.in_channels, width=width, voxels=voxels, step=steps[0], kernel_size=whole)
            if voxels
            else None
        )
        self.reach, self.num_features = self.whole.reach if self.whole else 0, width
        # input and output of a convolution, and the image's features
        self.num_alive = 4 * voxels
        self.head = (
            SAME_CONV[dims](2 * voxels, num_classes, kernel_size=1)
            if voxels
            else transposed_conv(width, num_classes, step=steps[0])
        )
        # the tokens are below all levels
        self.level_heads = LevelHeads(
            channels[:-1], num_classes=num_classes, spatial_dims=dims, enabled=deep_supervision
        )
        self.num_levels = len(self.level_heads)
        self.apply(init_weights)
        # tokens start as large as the image's features; smaller ones let only the image's path learn at first
        nn.init.trunc_normal_(linear.weight, std=spec.dim**-0.5)
        # weights and image in channels-last memory: two to three times as fast on processors in half precision
        self.memory_format = CHANNELS_LAST[dims]
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S), dense tokens (B, N, C) -> Decoded with logits (B, Q, *S)."""
        maps = self.maps(image, dense)
        return Decoded(self.voxels(maps[0], image), levels=self.level_heads(maps))

    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """image (B, C_in, *S), dense tokens (B, N, C) -> (B, width, *S / stride)."""
        return self.maps(image, dense)[0]

    def maps(self, image: Tensor, dense: Dense) -> list[Tensor]:
        """Features (B, width 2^i, *S / 2^i / stride) of every level down to the tokens, finest first."""
        skips, x = [], image.to(memory_format=self.memory_format)
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = to_grid(self.enter(dense.x), dense.grid)
        maps = [x]
        for up, join, skip in reversed(list(zip(self.ups, self.joins, skips, strict=True))):
            x = join(up(x).add_(skip))
            maps.append(x)
        return maps[::-1]

    def voxels(self, features: Tensor, image: Tensor, rows: slice = ALL) -> Tensor:
        """features (B, width, *S / stride), image (B, C_in, *S) -> logits (B, Q, *S), or of `rows` alone."""
        if self.whole is None:
            return self.head(features)[:, :, rows]
        # of many classes, logits are the most of the work: rows that are there for their reach have none
        return self.head(self.whole(features, image.to(memory_format=self.memory_format))[:, :, rows])


class FullResolution(nn.Module):
    """Joins features and image at full resolution: x (B, width, *S / step) -> (B, 2 * voxels, *S)."""

    reach = 2  # voxels: a 3^D convolution of the image, then two flat ones that together are 3^D

    def __init__(self, in_channels: int, *, width: int, voxels: int, step: Extent, kernel_size: Extent) -> None:
        super().__init__()
        self.up = transposed_conv(width, voxels, step=step)
        self.image = FoldedConv(in_channels, voxels, kernel_size=kernel_size)
        first, *others = kernel_size
        self.join = nn.Sequential(
            FoldedConv(voxels, voxels, kernel_size=[1, *others]),
            FoldedConv(voxels, 2 * voxels, kernel_size=[first, *[1] * len(others)]),
        )

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """x (B, width, *S / step), image (B, C_in, *S) -> (B, 2 * voxels, *S)."""
        return self.join(self.up(x).add_(self.image(image)))


def conv_norm_gelu(channels: int, *, kernel_size: Extent) -> nn.Sequential:
    """Convolution that keeps the size, InstanceNorm, GELU: (B, channels, *S) -> (B, channels, *S)."""
    return nn.Sequential(
        # no bias: the norm would subtract it
        size_keeping_conv(channels, channels, kernel_size=kernel_size, bias=False),
        INSTANCE_NORM[len(kernel_size)](channels, affine=True),
        nn.GELU(),
    )
