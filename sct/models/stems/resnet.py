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
from sct.models.patch import Extent, kept_size, kernel_at
from sct.models.stems.base import Stem, stem_steps


class ResNetStem(Stem):
    """Root convolution of 7^d, max-pooling, then stages; stage i has `units[i]` bottlenecks of width `width` * 2^i.

    The output of a stage has four times its width. Root, pooling and all stages but the first halve the resolution;
    with three stages the stride is 16. Pooling windows at the far border reach beyond the map and take the maximum of
    the values inside it, so every size is halved exactly. TransUNet's program leaves these windows out (at image size
    224 the first stage gets 55 of 56 places) and fills the missing places with zeros in its skip connection.
    Along an axis with a smaller patch, the finest of these steps have stride and kernel 1.

    units: number of bottlenecks of every stage
    width: width of the bottlenecks of the first stage; it doubles with every stage
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        patch_size: Extent,
        units: Sequence[int] = (3, 4, 9),
        width: int = 64,
    ) -> None:
        super().__init__()
        if not units or min(units) < 1:
            raise UserError(f"encoder.stem.units={list(units)} must have at least one unit for every stage.")
        steps = stem_steps(patch_size, num_steps=len(units) + 1)
        root = standardised_conv(in_channels, width, kernel_at(0, patch_size, size=7), stride=steps[0])
        self.root = nn.Sequential(root, group_norm(width), nn.ReLU(inplace=True))
        self.pool = MAX_POOL[spatial_dims](kernel_at(1, patch_size), stride=steps[1], ceil_mode=True)
        self.stages = nn.ModuleList()
        channels = width
        outputs = []
        for stage, number in enumerate(units):
            mid = width * 2**stage
            level, ones = stage + 2, (1,) * spatial_dims
            blocks = []
            for unit in range(number):
                # the first unit of every stage but the first leads down to the level of the stage
                leads = stage > 0 and unit == 0
                kernel = kernel_at(level - 1 if leads else level, patch_size)
                stride = steps[level - 1] if leads else ones
                blocks.append(Bottleneck(channels, mid_channels=mid, kernel_size=kernel, stride=stride))
                channels = 4 * mid
            self.stages.append(nn.Sequential(*blocks))
            outputs.append(channels)
        self.out_channels = channels
        self.pyramid_channels = (width, *outputs[:-1])

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, out_channels, *S / patch), pyramid at strides 2, 4, ..."""
        pyramid = [self.root(image)]
        x = self.pool(pyramid[0])
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return x, pyramid[:-1]


class Bottleneck(nn.Module):
    """Convolutions of 1^d, `kernel_size` and 1^d with group norms; their sum with the input passes a ReLU.

    Where width or resolution changes, a 1^d convolution and a norm with one group for each channel adapt the input.
    """

    def __init__(self, in_channels: int, *, mid_channels: int, kernel_size: Extent, stride: Extent) -> None:
        super().__init__()
        out_channels, ones = 4 * mid_channels, (1,) * len(stride)
        self.branch = nn.Sequential(
            standardised_conv(in_channels, mid_channels, ones, stride=ones),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            standardised_conv(mid_channels, mid_channels, kernel_size, stride=stride),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            standardised_conv(mid_channels, out_channels, ones, stride=ones),
            group_norm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != ones or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                standardised_conv(in_channels, out_channels, ones, stride=stride),
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


def standardised_conv(in_channels: int, out_channels: int, kernel_size: Extent, *, stride: Extent) -> nn.Module:
    """A weight-standardised convolution; its padding is such that only `stride` changes the size."""
    convolution = {2: StandardisedConv2d, 3: StandardisedConv3d}[len(kernel_size)]
    padding = kept_size(kernel_size)
    return convolution(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)  # type: ignore[arg-type]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, or with gcd(32, channels) groups in a narrow stem."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)
