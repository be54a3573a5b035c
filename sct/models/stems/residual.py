"""The iterative residual tokenizer of Primus V2 and V3: a small residual network down to the token grid.

Letters: B batch, S spatial size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sct.models.blocks.convolutions import AVG_POOL, CONVOLUTION, INSTANCE_NORM, init_he
from sct.models.patch import Extent, kept_size, kernel_at
from sct.models.stems.base import Stem, stem_steps


class ResidualStem(Stem):
    """One residual block at the resolution of the image, then one for each halving down to the token grid.

    Along an axis with a smaller patch, the finest halvings and convolutions have extent 1. The first block of the
    authors' program also has biases before its norms, which subtract them; they are left out here.

    widths: channels at each resolution, from the image's resolution down
    slope: slope of the activation below 0: 0 is ReLU (Primus V2), 0.01 is Primus V3's leaky ReLU
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        patch_size: Extent,
        widths: Sequence[int] = (32, 32, 64, 128),
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        steps = stem_steps(patch_size, num_steps=len(widths) - 1)
        self.out_channels = widths[-1]
        self.pyramid_channels = tuple(widths[:-1])
        strides = [(1,) * spatial_dims, *steps]
        # the strided convolution of a block leads down from the level above
        levels = [0, *range(len(steps))]
        self.blocks = nn.ModuleList(
            ResidualBlock(
                above, width, kernels=(kernel_at(level, patch_size), kernel_at(number, patch_size)), stride=stride,
                slope=slope,
            )
            for number, (level, (above, width), stride) in enumerate(
                zip(levels, pairwise([in_channels, *widths]), strides, strict=True)
            )
        )  # fmt: skip
        self.apply(init_he)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, widths[-1], *S / patch), pyramid at strides 1, 2, ..."""
        pyramid, x = [], image
        for block in self.blocks:
            x = block(x)
            pyramid.append(x)
        return x, pyramid[:-1]


class ResidualBlock(nn.Module):
    """Convolution, norm, activation, convolution, norm; the sum with the input passes the activation (ResNet-D).

    The first convolution has the stride. Where the block has a stride, the input is averaged by it; where the width
    changes, a 1^d convolution and a norm adapt the input.

    kernels: of the two convolutions
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernels: tuple[Extent, Extent], stride: Extent, slope: float
    ) -> None:
        super().__init__()
        dims, ones = len(stride), (1,) * len(stride)
        self.slope = slope
        self.enter = conv_norm(in_channels, out_channels, kernel_size=kernels[0], stride=stride)
        self.leave = conv_norm(out_channels, out_channels, kernel_size=kernels[1], stride=ones)
        self.shortcut = nn.Sequential()
        if stride != ones:
            self.shortcut.append(AVG_POOL[dims](stride, stride=stride))  # type: ignore[arg-type]
        if in_channels != out_channels:
            self.shortcut.extend(conv_norm(in_channels, out_channels, kernel_size=ones, stride=ones))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *S) -> (B, out_channels, *S / stride)."""
        branch = self.leave(F.leaky_relu(self.enter(x), self.slope))
        return F.leaky_relu(branch + self.shortcut(x), self.slope)


def conv_norm(in_channels: int, out_channels: int, *, kernel_size: Extent, stride: Extent) -> nn.Sequential:
    """Convolution and InstanceNorm: (B, in_channels, *S) -> (B, out_channels, *S / stride)."""
    convolution, norm = CONVOLUTION[len(stride)], INSTANCE_NORM[len(stride)]
    padding = kept_size(kernel_size)
    return nn.Sequential(
        # no bias: the norm would subtract it
        convolution(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False),  # type: ignore[arg-type]
        norm(out_channels, affine=True),
    )
