"""Base classes of decoders.

Letters: B batch, C_in channels of the image, F of features, Q classes (or regions), S spatial size,
D axes of the image.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.config.parts import part
from sct.errors import UserError
from sct.models.patch import Extent, halvings, in_config
from sct.models.tokens import Decoded, Dense

ALL = slice(None)


@part
class Decoder(nn.Module, ABC):
    """Dense features -> logits; built from the completion's `FeatureSpec` and the number of classes.

    num_levels: coarser levels that have logits in training, see `Decoded.levels`
    """

    num_levels: int = 0

    @abstractmethod
    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""


class TwoStageDecoder(Decoder):
    """Decoder of two stages: features at 1 / `stride` of the resolution, then logits from features and image.

    For the logits of a voxel the second stage reads features and image only within `reach` voxels, so it can be applied
    outside windows: where windows overlap, the features are blended instead of the logits, and the logits are computed
    once for the image.

    stride: voxels for one place of the features along each axis (D,). num_features: F. num_alive: channels at full
    resolution that the second stage holds at a time, without the logits.
    """

    stride: Extent
    reach: int
    num_features: int
    num_alive: int

    @abstractmethod
    def features(self, image: Tensor, dense: Dense) -> Tensor:
        """image (B, C_in, *S) and the dense features -> (B, F, *S / stride)."""

    @abstractmethod
    def voxels(self, features: Tensor, image: Tensor, rows: slice = ALL) -> Tensor:
        """features (B, F, *S / stride), image (B, C_in, *S) -> logits (B, Q, *S).

        rows: the logits of these rows of the first axis of S alone; the others are there for their reach
        """

    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""
        return Decoded(self.voxels(self.features(image, dense), image))


def doubling_steps(patch_size: Extent, *, decoder: str) -> tuple[Extent, ...]:
    """The factors (D,) of the steps between image and token grid, finest step first, see `patch.halvings`.

    UserError where the patch size is not a power of two along each axis, or 1 along all of them.
    """
    steps = halvings(patch_size)
    if not steps:
        raise UserError(
            f"decoder={decoder} doubles the resolution step by step; encoder.patch_size={in_config(patch_size)} "
            "must be a power of two along each axis, and at least 2 along one. Choose such numbers, or decoder=fcn, "
            "which takes any patch."
        )
    return steps
