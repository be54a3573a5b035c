"""What a loss of a pixel-wise head is to the criterion."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class PixelLoss(nn.Module, ABC):
    """Judges logits of every voxel, of classes (softmax) or of regions (sigmoid).

    overlapping: for regions, that is for data sets whose `Outputs.overlapping` is the same
    """

    overlapping: ClassVar[bool]

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """logits (B, Q, *S) and `Outputs.targets` of the labels -> {"loss", and its parts}, scalars in float32."""

    @staticmethod
    @abstractmethod
    def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence of the teacher's distribution from that of the logits, both (B, Q, *S), mean over voxels."""
