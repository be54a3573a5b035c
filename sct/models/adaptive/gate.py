"""Query-wise pruning by a supervised gate, APFormer, section III-C.

Letters: B batch, C channels of the stem, N tokens of the grid.
"""

import torch
from torch import Tensor, nn

from sct.config.parts import part
from sct.models.blocks.convolutions import CONVOLUTION
from sct.models.reducers.base import Rescore
from sct.runtime.precision import at_least_float32, full_precision


@part
class QueryGate(nn.Module):
    """Switches off patches that are almost surely background as queries, from the stem's features (equation 11).

    A patch with a probability of background of `threshold` or more is no query in attention. The criterion supervises
    the gate with the label "any foreground in the patch"; the decision carries no gradient, and is made in float32.

    threshold: probability of background from which a patch is no query in attention
    """

    # takes the place of an image's probabilities of foreground in evaluation, see `check_selection`
    rescore: Rescore | None = None

    def __init__(self, *, spatial_dims: int, in_channels: int, threshold: float = 0.9) -> None:
        super().__init__()
        self.threshold = threshold
        self.classify = CONVOLUTION[spatial_dims](in_channels, 2, kernel_size=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, C, *grid) -> logits of background and foreground (B, 2, *grid), and query_mask (B, N)."""
        with full_precision(features.device.type):
            logits = self.classify(at_least_float32(features))
        background = logits.detach().softmax(dim=1)[:, 0].flatten(1)
        if self.rescore is not None:
            places = torch.arange(background.shape[1], device=background.device)
            rows = [self.rescore(-row, places, number) for number, row in enumerate(background)]
            background = -torch.stack(rows)
        return logits, background < self.threshold
