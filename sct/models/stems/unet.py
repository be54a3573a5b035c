"""The contracting path of a small U-Net: APFormer's stem.

Letters: B batch, S spatial size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from sct.models.blocks.convolutions import MAX_POOL, double_conv
from sct.models.patch import Extent, kernel_at
from sct.models.stems.base import Stem, stem_steps


class UNetStem(Stem):
    """Double convolutions with max-pooling by 2 between them.

    Along an axis with a smaller patch, the finest poolings and convolutions have extent 1.

    widths: channels at each resolution, from the image's resolution down
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        patch_size: Extent,
        widths: Sequence[int] = (16, 32, 64, 128),
    ) -> None:
        super().__init__()
        steps = stem_steps(patch_size, num_steps=len(widths) - 1)
        self.out_channels = widths[-1]
        self.pyramid_channels = tuple(widths[:-1])
        channels = [in_channels, *widths]
        self.levels = nn.ModuleList(
            double_conv(above, width, mid_channels=width, kernel_size=kernel_at(level, patch_size))
            for level, (above, width) in enumerate(zip(channels[:-1], widths, strict=True))
        )
        self.pools = nn.ModuleList(MAX_POOL[spatial_dims](step) for step in steps)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, widths[-1], *S / patch), pyramid at strides 1, 2, ..."""
        pyramid = [self.levels[0](image)]
        for pool, level in zip(self.pools, self.levels[1:], strict=True):
            pyramid.append(level(pool(pyramid[-1])))
        return pyramid[-1], pyramid[:-1]
