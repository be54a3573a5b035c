"""The convolutions of R50+ViT-B/16, TransUNet's stem: a ResNet-50 (V2, as in BiT) without its last stage.

Letters: B batch, S spatial size.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.convolutions import MAX_POOL
from sct.models.stems.base import Stem


class ResNetStem(Stem):
    """Root convolution of 7^d, max-pooling, then stages; stage i has `units[i]` bottlenecks of width `width` * 2^i.

    The output of a stage has four times its width. Root, pooling and all stages but the first halve the resolution;
    with three stages the stride is 16. Pooling windows at the far border reach beyond the map and take the maximum of
    the values inside it, so every size is halved exactly. TransUNet's program leaves these windows out (at image size
    224 the first stage gets 55 of 56 places) and fills the missing places with zeros in its skip connection.

    units: number of bottlenecks of every stage
    width: width of the bottlenecks of the first stage; it doubles with every stage
    """

    def __init__(
        self, *, spatial_dims: int, in_channels: int, units: Sequence[int] = (3, 4, 9), width: int = 64
    ) -> None:
        super().__init__()
        if not units or min(units) < 1:
            raise UserError(f"encoder.stem.units={list(units)} must have at least one unit for every stage.")
        self.root = nn.Sequential(
            standardised_conv(spatial_dims, in_channels, width, 7, stride=2), group_norm(width), nn.ReLU(inplace=True)
        )
        self.pool = MAX_POOL[spatial_dims](3, stride=2, ceil_mode=True)
        self.stages = nn.ModuleList()
        channels = width
        outputs = []
        for stage, number in enumerate(units):
            mid = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (number - 1)
            blocks = []
            for stride in strides:
                blocks.append(Bottleneck(spatial_dims, channels, mid_channels=mid, stride=stride))
                channels = 4 * mid
            self.stages.append(nn.Sequential(*blocks))
            outputs.append(channels)
        self.stride = 2 ** (len(units) + 1)
        self.out_channels = channels
        self.pyramid_channels = (width, *outputs[:-1])

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, out_channels, *S / stride), pyramid at strides 2, 4, ...

        UserError where S is not divisible by the stride.
        """
        if any(size % self.stride for size in image.shape[2:]):
            raise UserError(
                f"data.roi_size={list(image.shape[2:])} is not divisible by {self.stride}, the stride of "
                f"encoder.stem. Choose a roi_size of multiples of {self.stride}."
            )
        pyramid = [self.root(image)]
        x = self.pool(pyramid[0])
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return x, pyramid[:-1]


class Bottleneck(nn.Module):
    """1^d, 3^d and 1^d convolutions with group norms; their result is added to the input, and a ReLU follows.

    Where width or resolution changes, a 1^d convolution and a norm with one group for each channel adapt the input.
    """

    def __init__(self, spatial_dims: int, in_channels: int, *, mid_channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * mid_channels
        self.branch = nn.Sequential(
            standardised_conv(spatial_dims, in_channels, mid_channels, 1),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            standardised_conv(spatial_dims, mid_channels, mid_channels, 3, stride=stride),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            standardised_conv(spatial_dims, mid_channels, out_channels, 1),
            group_norm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                standardised_conv(spatial_dims, in_channels, out_channels, 1, stride=stride),
                nn.GroupNorm(out_channels, out_channels, eps=1e-5),
            )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *S) -> (B, 4 mid_channels, *S / stride)."""
        return F.relu(self.shortcut(x) + self.branch(x))


def standardise(weight: Tensor) -> Tensor:
    """A convolution's weight (out, in, ...), normalised to mean 0 and variance 1 for each output channel."""
    variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, correction=0)
    return (weight - mean) * torch.rsqrt(variance + 1e-5)


class StandardisedConv2d(nn.Conv2d):
    """A 2-D convolution with a weight from `standardise`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C_in, *S) -> (B, C_out, *S / stride)."""
        return F.conv2d(x, standardise(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedConv3d(nn.Conv3d):
    """A 3-D convolution with a weight from `standardise`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C_in, *S) -> (B, C_out, *S / stride)."""
        return F.conv3d(x, standardise(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardised_conv(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1
) -> nn.Module:
    """A weight-standardised convolution; its padding is such that only `stride` changes the size."""
    convolution = {2: StandardisedConv2d, 3: StandardisedConv3d}[spatial_dims]
    return convolution(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, or with gcd(32, channels) groups in a narrow stem."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)
