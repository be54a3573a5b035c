"""What every decoder is to the segmenter."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.models.tokens import Decoded, Dense


class Decoder(nn.Module, ABC):
    """Built from the completion's `FeatureSpec` and the number of classes."""

    @abstractmethod
    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""
