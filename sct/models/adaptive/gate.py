"""Query-wise pruning by a supervised gate, APFormer, section III-C.

Letters: B batch, C channels of the stem, N tokens of the grid.
"""

from torch import Tensor, nn

from sct.models.blocks.convolutions import CONVOLUTION


class QueryGate(nn.Module):
    """Says by the features in front of the transformer which patches are background for sure (equation 11).

    A patch whose probability of background is `threshold` or more asks nothing in attention. The criterion supervises
    the gate by "any foreground in the patch"; the choice itself carries no gradient.

    threshold: probability of background from which a patch asks nothing in attention
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, threshold: float = 0.9) -> None:
        super().__init__()
        self.threshold = threshold
        self.classify = CONVOLUTION[spatial_dims](in_channels, 2, kernel_size=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, C, *grid) -> logits of background and foreground (B, 2, *grid), and which patches ask (B, N)."""
        logits = self.classify(features)
        return logits, logits.detach().float().softmax(dim=1)[:, 0].flatten(1) < self.threshold
