"""Base class of stems: the convolutions before the transformer of a hybrid encoder."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Stem(nn.Module, ABC):
    """Convolutions between the image and the tokens; built by the encoder with `spatial_dims` and `in_channels`.

    stride: image voxels for one place of the output, along each axis. out_channels: channels of the output.
    pyramid_channels: channels of the intermediate feature maps, finest map first. The last map has twice the
    resolution of the output; each map has twice the resolution of the next one.
    """

    stride: int
    out_channels: int
    pyramid_channels: tuple[int, ...]

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, out_channels, *S / stride), pyramid (B, pyramid_channels[i], ...)."""
