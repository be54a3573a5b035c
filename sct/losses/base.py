"""What a loss of a pixel-wise head is to the criterion."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from sct.config.parts import part


@part
class PixelLoss(nn.Module, ABC):
    """Judges logits of every voxel, of classes (softmax) or of regions (sigmoid).

    overlapping: for regions, that is for data sets whose `Outputs.overlapping` is the same
    """

    overlapping: ClassVar[bool]

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """logits (B, Q, *S) and `Outputs.targets` of the labels -> {"loss", and its parts}, scalars in float32.

        known (B, *S) bool: which voxels count; the target has background in the others. None: all count.
        """

    @staticmethod
    @abstractmethod
    def divergence(logits: Tensor, teacher: Tensor, known: Tensor | None = None) -> Tensor:
        """KL divergence of the teacher's distribution from that of the logits, both (B, Q, *S), mean over `known`."""


def known_mean(values: Tensor, known: Tensor | None) -> Tensor:
    """Mean of `values` where `known`, bool, which is broadcast to their shape; 0 where nothing is. None: of all."""
    if known is None:
        return values.mean()
    known = known.expand_as(values)
    return (values * known).sum() / known.sum().clamp_min(1)
