"""Base class of encoders, and an encoder without tokens for networks that take the image alone.

Letters: B batch, S spatial size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sct.config.parts import part
from sct.models.reducers.base import Reducer
from sct.models.tokens import Encoded, FeatureSpec, Tokens


@part
class Encoder(nn.Module, ABC):
    """image -> sparse features; `spec` describes the features, `depth` is the number of blocks."""

    spec: FeatureSpec
    depth: int
    reducer: Reducer | None

    @property
    def by_image(self) -> bool:
        """Whether the number of operations depends on the content of an image, and not only on its shape."""
        return self.spec.prunes_rows or (self.reducer is not None and self.reducer.by_image)

    @abstractmethod
    def forward(self, image: Tensor) -> Encoded:
        """image (B, C_in, *S) -> sparse features."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise decay: 0 before the blocks, i in block i, depth + 1 after the blocks."""


class ImageOnly(Encoder):
    """Encoder without tokens, of width 0, for a decoder that is a complete network and takes the image alone."""

    def __init__(
        self, *, image_size: Sequence[int], in_channels: int, num_classes: int = 0, overlapping: bool = False
    ) -> None:
        super().__init__()
        self.depth, self.reducer = 0, None
        self.spec = FeatureSpec(
            image_size=tuple(image_size),
            in_channels=in_channels,
            patch_size=(1,) * len(image_size),
            dim=0,
            num_heads=1,
            num_classes=num_classes,
            overlapping=overlapping,
        )

    def forward(self, image: Tensor) -> Encoded:
        """image (B, C_in, *S) -> features of no token."""
        B = image.shape[0]
        no_tokens = Tokens(image.new_zeros(B, 0, 0), torch.zeros(B, 0, dtype=torch.long, device=image.device))
        return Encoded(grid=self.spec.grid, final=no_tokens, prefix=image.new_zeros(B, 0, 0))

    def layer_of(self, name: str) -> int:
        raise AssertionError(f"this encoder has no parameters, so none is called {name}")
