"""What every decoder is to the segmenter."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sct.errors import UserError
from sct.models.tokens import Decoded, Dense


class Decoder(nn.Module, ABC):
    """Built from the completion's `FeatureSpec` and the number of classes."""

    @abstractmethod
    def forward(self, image: Tensor, dense: Dense) -> Decoded:
        """image (B, C_in, *S) and the dense features -> Decoded with logits (B, Q, *S)."""


def doubling_steps(patch_size: int, *, decoder: str) -> int:
    """How many doublings lead from the token grid to the image; UserError where none does."""
    steps = patch_size.bit_length() - 1
    if patch_size != 2**steps or steps == 0:
        raise UserError(
            f"decoder={decoder} doubles the resolution step by step; encoder.patch_size={patch_size} "
            "must be a power of two, at least 2."
        )
    return steps
