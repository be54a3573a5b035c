"""Base class of stems: the convolutions before the transformer of a hybrid encoder.

Letters: B batch, S spatial size, D axes of the image.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.config.parts import part
from sct.errors import UserError
from sct.models.patch import Extent, halvings, in_config


@part
class Stem(nn.Module, ABC):
    """Convolutions between the image and the tokens.

    The encoder builds it with `spatial_dims`, `in_channels` and `patch_size` (D,): image voxels for one place of the
    output along each axis.

    out_channels: channels of the output.
    pyramid_channels: channels of the intermediate feature maps, finest map first. The last map is one step of
    `patch.halvings` finer than the output; each map is one step finer than the next one.
    """

    out_channels: int
    pyramid_channels: tuple[int, ...]

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """image (B, C_in, *S) -> output (B, out_channels, *S / patch), pyramid (B, pyramid_channels[i], ...)."""


def stem_steps(patch_size: Extent, *, num_steps: int) -> tuple[Extent, ...]:
    """The strides (D,) of the steps of a stem that halves an image `num_steps` times, finest step first.

    UserError where they do not lead to the patch.
    """
    steps = halvings(patch_size)
    if steps is None or len(steps) != num_steps:
        stride = 2**num_steps
        raise UserError(
            f"encoder.patch_size={in_config(patch_size)} must be {stride}, the stride of encoder.stem; along some of "
            f"the axes it may be a smaller power of two. Set encoder.patch_size={stride}, or change the stem."
        )
    return steps
