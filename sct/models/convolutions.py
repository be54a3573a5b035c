"""Convolutional pieces that hybrids and decoders share, in 2-D and 3-D.

Letters: B batch, S spatial size.
"""

import torch
from torch import nn

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}

CHANNELS_LAST: dict[int, torch.memory_format] = {2: torch.channels_last, 3: torch.channels_last_3d}


def conv_bn_relu(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """3^dims convolution that keeps the size, BatchNorm, ReLU: (B, in_channels, *S) -> (B, out_channels, *S)."""
    return nn.Sequential(
        # the norm subtracts a bias again
        CONVOLUTION[spatial_dims](in_channels, out_channels, 3, padding=1, bias=False),
        BATCH_NORM[spatial_dims](out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(spatial_dims: int, in_channels: int, out_channels: int, *, mid_channels: int) -> nn.Sequential:
    """Two `conv_bn_relu` in turn, the U-Net's block."""
    return nn.Sequential(
        conv_bn_relu(spatial_dims, in_channels, mid_channels), conv_bn_relu(spatial_dims, mid_channels, out_channels)
    )
