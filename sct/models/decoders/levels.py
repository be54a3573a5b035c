"""Logits at the coarser levels of a decoder, for deep supervision.

Letters: B batch, F channels of a level, Q classes (or regions), S size of a level.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from sct.models.blocks.convolutions import size_keeping_conv


class LevelHeads(nn.ModuleList):
    """A 1x1 convolution from features to logits for each coarser level, except the coarsest, as in nnU-Net.

    widths: channels F of the levels below the decoder's own logits, finest first. Empty where `enabled` is false.
    """

    def __init__(self, widths: Sequence[int], *, num_classes: int, spatial_dims: int, enabled: bool) -> None:
        point = (1,) * spatial_dims
        supervised = widths[:-1] if enabled else ()
        super().__init__(size_keeping_conv(width, num_classes, kernel_size=point) for width in supervised)

    def forward(self, features: Iterable[Tensor]) -> list[Tensor]:
        """Features (B, F, *S) of the levels, finest first -> logits (B, Q, *S) in training; [] in evaluation."""
        if not self.training:
            return []
        # the features of the coarsest level have no head
        return [head(x) for head, x in zip(self, features, strict=False)]
