"""The contracting path of a small U-Net: APFormer's stem.

Letters: B batch, S spatial size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from sct.models.blocks.convolutions import MAX_POOL, double_conv
from sct.models.stems.base import Stem


class UNetStem(Stem):
    """Double convolutions with max-pooling by 2 between them.

    widths: channels at each resolution, from the image's resolution down
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.out_channels = widths[-1]
        self.pyramid_channels = tuple(widths[:-1])
        channels = [in_channels, *widths]
        self.levels = nn.ModuleList(
            double_conv(spatial_dims, above, width, mid_channels=width)
            for above, width in zip(channels[:-1], widths, strict=True)
        )
        self.pool = MAX_POOL[spatial_dims](2)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, widths[-1], *S / stride), pyramid at strides 1, 2, ..."""
        pyramid = [self.levels[0](image)]
        for level in self.levels[1:]:
            pyramid.append(level(self.pool(pyramid[-1])))
        return pyramid[-1], pyramid[:-1]
