"""What every decoder is to the segmenter.

Letters: B batch, C_in channels of the image, F of features, Q classes (or regions), S spatial size.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.tokens import Decoded, Dense


class Decoder(nn.Module, ABC):
    """Built from the completion's `FeatureSpec` and the number of classes."""

    @abstractmethod
    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""


class TwoStageDecoder(Decoder):
    """Features of a window at 1 / `stride` of its resolution, then logits of the voxels from features and image.

    The second stage looks no further than `reach` voxels around a voxel, in features and image alike. So it needs no
    windows: where they overlap, the few features can be blended instead of the logits, and the voxels be computed once
    for a whole image.

    num_features: F; num_alive: channels at the voxels that the second stage holds at a time, beside the logits
    """

    stride: int
    reach: int
    num_features: int
    num_alive: int

    @abstractmethod
    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """image (B, C_in, *S) and the dense features -> (B, F, *S / stride)."""

    @abstractmethod
    def voxels(self, features: Tensor, image: Tensor) -> Tensor:
        """features (B, F, *S / stride), image (B, C_in, *S) -> logits (B, Q, *S)."""

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""
        return Decoded(self.voxels(self.features(image, dense), image))


def doubling_steps(patch_size: int, *, decoder: str) -> int:
    """How many doublings lead from the token grid to the image; UserError where none does."""
    steps = patch_size.bit_length() - 1
    if patch_size != 2**steps or steps == 0:
        raise UserError(
            f"decoder={decoder} doubles the resolution step by step; encoder.patch_size={patch_size} "
            "must be a power of two, at least 2."
        )
    return steps
