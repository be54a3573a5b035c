"""The sum of overlapping windows, kept only for the rows that a window can still touch.

Legend: Q channels of the logits, R rows kept, P size of a row (the image's other axes), W window size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class RollingLogits:
    """Weighted sum of windows' logits over R rows of an image from row `first` on.

    total (Q, R, *P) in `dtype`, which also the products are in; weight (R, *P) float32, what they are divided by.
    """

    def __init__(
        self, *, num_channels: int, num_rows: int, plane: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.first = 0
        self.total = torch.zeros((num_channels, num_rows, *plane), dtype=dtype, device=device)
        self.weight = torch.zeros((num_rows, *plane), device=device)

    def add(self, logits: Tensor, *, weight: Tensor, start: Sequence[int]) -> None:
        """Adds one window: logits (Q, *W), weight (*W) in the sum's own precision, at voxel `start` of the image."""
        corner = (start[0] - self.first, *start[1:])
        place = tuple(slice(at, at + edge) for at, edge in zip(corner, weight.shape, strict=True))
        # channel by channel, so that a change of precision needs no second copy of all of them
        for total, channel in zip(self.total, logits, strict=True):
            total[place].addcmul_(channel.to(total.dtype), weight)
        self.weight[place] += weight

    def mean(self, start: int, stop: int, *, background: Tensor) -> Tensor:
        """Logits (Q, stop - start, *P), float32, of rows of the image; `background` (Q) where there was no window."""
        rows = slice(start - self.first, stop - self.first)
        weight = self.weight[rows]
        logits = self.total[:, rows] / weight
        bare = weight == 0
        if bare.any():
            for channel, value in zip(logits, background.tolist(), strict=True):
                channel.masked_fill_(bare, value)
        return logits

    def drop_before(self, row: int) -> None:
        """Makes room: the rows before `row` of the image are forgotten, as many new ones at the end are empty."""
        step, num_rows = row - self.first, len(self.weight)
        if step <= 0:
            return
        for buffer, dim in ((self.total, 1), (self.weight, 0)):
            # in steps, since a copy must not overlap its source
            for place in range(0, num_rows - step, step):
                count = min(step, num_rows - step - place)
                buffer.narrow(dim, place, count).copy_(buffer.narrow(dim, place + step, count))
            kept = max(0, num_rows - step)
            buffer.narrow(dim, kept, num_rows - kept).zero_()
        self.first = row
