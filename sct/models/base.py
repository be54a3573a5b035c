"""What every encoder is to the segmenter, and the encoder that has nothing to say.

Letters: B batch, S spatial size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sct.models.reducers.base import Reducer
from sct.models.tokens import Encoded, FeatureSpec, Tokens


class Encoder(nn.Module, ABC):
    """image -> sparse features; `spec` is what it publishes, `depth` the number of its blocks."""

    spec: FeatureSpec
    depth: int
    reducer: Reducer | None

    @property
    def by_image(self) -> bool:
        """Whether what is computed depends on what is in an image, and not on its shape alone."""
        return self.spec.prunes_rows or (self.reducer is not None and self.reducer.by_image)

    @abstractmethod
    def forward(self, image: Tensor) -> Encoded:
        """image (B, C_in, *S) -> sparse features."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise decay: 0 in front of the blocks, i in block i, depth + 1 behind."""


class ImageOnly(Encoder):
    """No tokens at all, of width 0: in front of a whole network, which looks at the image alone."""

    def __init__(
        self, *, image_size: Sequence[int], in_channels: int, num_classes: int = 0, overlapping: bool = False
    ) -> None:
        super().__init__()
        self.depth, self.reducer = 0, None
        self.spec = FeatureSpec(
            image_size=tuple(image_size),
            in_channels=in_channels,
            patch_size=1,
            dim=0,
            num_heads=1,
            num_classes=num_classes,
            overlapping=overlapping,
        )

    def forward(self, image: Tensor) -> Encoded:
        """image (B, C_in, *S) -> features of no token."""
        B = image.shape[0]
        nothing = Tokens(image.new_zeros(B, 0, 0), torch.zeros(B, 0, dtype=torch.long, device=image.device))
        return Encoded(grid=self.spec.grid, final=nothing, prefix=image.new_zeros(B, 0, 0))

    def layer_of(self, name: str) -> int:
        raise AssertionError(f"no parameter is called {name}: there are none")
