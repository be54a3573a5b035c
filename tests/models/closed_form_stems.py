"""Costs of convolutions in front of a transformer, by arithmetic alone; see closed_form.py."""

import math

from sct.models.stems.residual import ResidualStem
from sct.models.stems.resnet import ResNetStem
from sct.models.stems.unet import UNetStem
from sct.models.tokens import FeatureSpec

# fvcore's operations an element
AFFINE_NORM, PLAIN_NORM, BATCH_NORM, BILINEAR = 5, 4, 2, 4


class Ladder:
    """Voxels and kernels at every level i, after i steps from the image; an axis is halved in the last steps alone."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.size, self.steps = spec.image_size, int(math.log2(max(spec.patch_size)))
        # steps that an axis waits before it is halved
        self.waits = [self.steps - int(math.log2(edge)) for edge in spec.patch_size]

    def voxels(self, level: int) -> int:
        sizes = zip(self.size, self.waits, strict=True)
        return math.prod(size // 2 ** max(0, level - wait) for size, wait in sizes)

    def factor(self, level: int) -> int:
        """Places of a level for one place of the next one."""
        return self.voxels(level) // self.voxels(level + 1)

    def kernel(self, level: int, edge: int = 3) -> int:
        """Places of a kernel: `edge` along each axis that waits no more."""
        return edge ** sum(level >= wait for wait in self.waits)


def conv_bn(voxels: int, kernel: int, cin: int, cout: int) -> int:
    """A convolution with a kernel of so many places, and a batch norm."""
    return voxels * (kernel * cin * cout + BATCH_NORM * cout)


def unet_stem(stem: UNetStem, spec: FeatureSpec) -> int:
    ladder, above, macs = Ladder(spec), spec.in_channels, 0
    for level, width in enumerate((*stem.pyramid_channels, stem.out_channels)):
        voxels, kernel = ladder.voxels(level), ladder.kernel(level)
        macs += conv_bn(voxels, kernel, above, width) + conv_bn(voxels, kernel, width, width)
        above = width
    return macs


def resnet_stem(stem: ResNetStem, spec: FeatureSpec) -> int:
    """Root of 7^d; bottlenecks of 1^d, 3^d and 1^d, the first of a stage with a shortcut of 1^d; norms."""
    ladder, width = Ladder(spec), stem.pyramid_channels[0]

    def conv(places: int, kernel: int, cin: int, cout: int) -> int:
        return places * (kernel * cin * cout + AFFINE_NORM * cout)

    macs, above = conv(ladder.voxels(1), ladder.kernel(0, 7), spec.in_channels, width), width
    for stage, blocks in enumerate(stem.stages):
        mid, voxels = width * 2**stage, ladder.voxels(stage + 2)
        for number in range(len(blocks)):
            level = stage + 1 if stage and not number else stage + 2
            before, kernel = ladder.voxels(level), ladder.kernel(level)
            macs += conv(before, 1, above, mid) + conv(voxels, kernel, mid, mid) + conv(voxels, 1, mid, 4 * mid)
            macs += 0 if number else conv(voxels, 1, above, 4 * mid)
            above = 4 * mid
    return macs


def residual_stem(stem: ResidualStem, spec: FeatureSpec) -> int:
    """Two convolutions of 3^d at every level, the first from the level above, and norms; 1^d where widths differ."""
    ladder, above, macs = Ladder(spec), spec.in_channels, 0
    for level, width in enumerate((*stem.pyramid_channels, stem.out_channels)):
        voxels, first = ladder.voxels(level), ladder.kernel(max(level - 1, 0))
        macs += voxels * (first * above * width + ladder.kernel(level) * width**2 + 2 * AFFINE_NORM * width)
        macs += (above != width) * voxels * (above * width + AFFINE_NORM * width)
        above = width
    return macs


STEMS = {UNetStem: unet_stem, ResNetStem: resnet_stem, ResidualStem: residual_stem}
