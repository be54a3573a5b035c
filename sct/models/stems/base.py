"""What the convolutions in front of a hybrid's transformer are to the encoder."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Stem(nn.Module, ABC):
    """Convolutions between the image and the tokens; built by the encoder with `spatial_dims` and `in_channels`.

    stride: image voxels along an axis for one place of the output, which has `out_channels`. pyramid_channels:
    widths of the feature maps on the way, finest first; the last has twice the resolution of the output, and
    each one before it twice that of the next.
    """

    stride: int
    out_channels: int
    pyramid_channels: tuple[int, ...]

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, out_channels, *S / stride), pyramid (B, pyramid_channels[i], ...)."""
