"""Costs of convolutions in front of a transformer, by arithmetic alone; see closed_form.py."""

import math

from sct.models.stems.resnet import ResNetStem
from sct.models.stems.unet import UNetStem
from sct.models.tokens import FeatureSpec

# fvcore's operations an element
AFFINE_NORM, PLAIN_NORM, BATCH_NORM, BILINEAR = 5, 4, 2, 4


def conv_bn(voxels: int, d: int, cin: int, cout: int) -> int:
    """A convolution of 3^d and a batch norm."""
    return voxels * (3**d * cin * cout + BATCH_NORM * cout)


def unet_stem(stem: UNetStem, spec: FeatureSpec) -> int:
    d, voxels, above, macs = spec.spatial_dims, math.prod(spec.image_size), spec.in_channels, 0
    for width in (*stem.pyramid_channels, stem.out_channels):
        macs += conv_bn(voxels, d, above, width) + conv_bn(voxels, d, width, width)
        above, voxels = width, voxels // 2**d
    return macs


def resnet_stem(stem: ResNetStem, spec: FeatureSpec) -> int:
    """Root of 7^d; bottlenecks of 1^d, 3^d and 1^d, the first of a stage with a shortcut of 1^d; norms."""
    d, voxels, width = spec.spatial_dims, math.prod(spec.image_size) // 2**spec.spatial_dims, stem.pyramid_channels[0]

    def conv(places: int, kernel: int, cin: int, cout: int) -> int:
        return places * (kernel**d * cin * cout + AFFINE_NORM * cout)

    macs, above, voxels = conv(voxels, 7, spec.in_channels, width), width, voxels // 2**d
    for stage, blocks in enumerate(stem.stages):
        mid = width * 2**stage
        for number in range(len(blocks)):
            before = voxels
            if stage and not number:
                voxels //= 2**d
            macs += conv(before, 1, above, mid) + conv(voxels, 3, mid, mid) + conv(voxels, 1, mid, 4 * mid)
            macs += 0 if number else conv(voxels, 1, above, 4 * mid)
            above = 4 * mid
    return macs
