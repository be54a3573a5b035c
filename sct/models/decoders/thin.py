"""A thin U-Net: the tokens are its coarsest level, and skip connections from the image keep the borders.

Letters: B batch, N tokens of the grid, C width of the tokens, Q classes (or regions), S spatial size.
"""

from torch import Tensor, nn

from sct.models.blocks.convolutions import CHANNELS_LAST, CONVOLUTION, INSTANCE_NORM, TRANSPOSED, FoldedConv
from sct.models.blocks.layers import init_weights
from sct.models.blocks.sliced import SAME_CONV
from sct.models.decoders.base import TwoStageDecoder, doubling_steps
from sct.models.grid import to_grid
from sct.models.tokens import Dense, FeatureSpec


class Thin(TwoStageDecoder):
    """Joins tokens and image at each resolution between the token grid and half the image, then at full resolution.

    - Contracting path (image): convolutions of kernel and stride 2, to `width` channels at half the resolution and
      twice as many at each coarser step; a 3^D convolution follows each.
    - Expanding path (tokens): a linear layer to the channels of the token grid, then transposed convolutions. The
      image's features are added after each, and a 3^D convolution follows.
    - Full resolution: it has few channels, because memory limits its speed. A 3^D convolution of the image to `voxels`
      channels is added to the up-sampled features. Two flat convolutions follow: one within the planes of the first
      axis, one along this axis to twice as many channels. In evaluation each is a single convolution, see `FoldedConv`.

    With voxels=0 there is no full resolution: a transposed convolution from half the resolution gives the logits. It is
    faster, and less exact at the borders of small organs.

    width: channels at half the resolution; twice as many at each coarser step
    voxels: channels at full resolution; 0: no convolutions there, faster and less exact at borders
    """

    stride = 2

    def __init__(self, *, spec: FeatureSpec, num_classes: int, width: int = 16, voxels: int = 0) -> None:
        super().__init__()
        steps, dims = doubling_steps(spec.patch_size, decoder="thin"), spec.spatial_dims
        # channels[i] at 1 / 2^(i + 1) of the resolution; the last value is for the token grid
        channels = [width * 2**level for level in range(steps)]
        convolution, transposed = CONVOLUTION[dims], TRANSPOSED[dims]
        self.downs = nn.ModuleList(
            nn.Sequential(convolution(above, out, kernel_size=2, stride=2), conv_norm_gelu(dims, out, out))
            for above, out in zip([spec.in_channels, *channels], channels[:-1], strict=False)
        )
        linear = nn.Linear(spec.dim, channels[-1])
        self.enter = nn.Sequential(nn.LayerNorm(spec.dim), linear)
        self.ups = nn.ModuleList(transposed(2 * out, out, kernel_size=2, stride=2, bias=False) for out in channels[:-1])
        self.joins = nn.ModuleList(conv_norm_gelu(dims, out, out) for out in channels[:-1])
        self.whole = FullResolution(spec, width=width, voxels=voxels) if voxels else None
        self.reach, self.num_features = self.whole.reach if self.whole else 0, width
        # input and output of a convolution, and the image's features
        self.num_alive = 4 * voxels
        self.head = (
            SAME_CONV[dims](2 * voxels, num_classes, kernel_size=1)
            if voxels
            else transposed(width, num_classes, kernel_size=2, stride=2)
        )
        self.apply(init_weights)
        # tokens start as large as the image's features; smaller ones let only the image's path learn at first
        nn.init.trunc_normal_(linear.weight, std=spec.dim**-0.5)
        # weights and image in channels-last memory: two to three times as fast on processors in half precision
        self.memory_format = CHANNELS_LAST[dims]
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """image (B, C_in, *S), dense tokens (B, N, C) -> (B, width, *S / 2)."""
        skips, x = [], image.to(memory_format=self.memory_format)
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = to_grid(self.enter(dense.x), dense.grid)
        for up, join, skip in reversed(list(zip(self.ups, self.joins, skips, strict=True))):
            x = join(up(x).add_(skip))
        return x

    def voxels(self, features: Tensor, image: Tensor) -> Tensor:
        """features (B, width, *S / 2), image (B, C_in, *S) -> logits (B, Q, *S)."""
        if self.whole is not None:
            features = self.whole(features, image.to(memory_format=self.memory_format))
        return self.head(features)


class FullResolution(nn.Module):
    """Joins features and image at full resolution: x (B, width, *S / 2) -> (B, 2 * voxels, *S)."""

    reach = 2  # voxels: a 3^D convolution of the image, then two flat ones that together are 3^D

    def __init__(self, spec: FeatureSpec, *, width: int, voxels: int) -> None:
        super().__init__()
        dims = spec.spatial_dims
        self.up = TRANSPOSED[dims](width, voxels, kernel_size=2, stride=2)
        self.image = FoldedConv(spec.in_channels, voxels, kernel_size=[3] * dims)
        self.join = nn.Sequential(
            FoldedConv(voxels, voxels, kernel_size=[1, *[3] * (dims - 1)]),
            FoldedConv(voxels, 2 * voxels, kernel_size=[3, *[1] * (dims - 1)]),
        )

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """x (B, width, *S / 2), image (B, C_in, *S) -> (B, 2 * voxels, *S)."""
        return self.join(self.up(x).add_(self.image(image)))


def conv_norm_gelu(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """3^dims convolution that keeps the size, InstanceNorm, GELU: (B, in, *S) -> (B, out, *S)."""
    return nn.Sequential(
        # no bias: the norm would subtract it
        CONVOLUTION[spatial_dims](in_channels, out_channels, 3, padding=1, bias=False),
        INSTANCE_NORM[spatial_dims](out_channels, affine=True),
        nn.GELU(),
    )
