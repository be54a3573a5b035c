"""The mean of overlapping windows, stored only for the rows that later windows can change.

Legend: F channels (of logits or of features), R stored rows, P size of a row (the image's other axes), S size of the
image, W window size. Sizes are in places of the stitched map: voxels for logits, larger cells for features.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Rows of a window that are added together: with 14 classes and 96 x 96 voxels a row, 2 MB.
ROWS = 4


def inverse_weight(shape: Sequence[int], *, places: Iterable[Sequence[int]], weight: Tensor) -> Tensor:
    """1 / (sum of the weights (*W) of the windows at `places`) for every voxel: (*S) float32, inf without window."""
    total = torch.zeros(tuple(shape), device=weight.device)
    for place in places:
        total[box_at(place, weight.shape)] += weight
    return total.reciprocal_()


def box_at(place: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    """The voxels of a window at `place`."""
    return tuple(slice(at, at + edge) for at, edge in zip(place, window, strict=True))


def fill(logits: Tensor, *, where: Tensor, values: Tensor) -> Tensor:
    """Sets the logits (Q, *S) of the voxels `where` (*S) to `values` (Q), in place."""
    if where.any():
        for channel, value in zip(logits, values.tolist(), strict=True):
            channel.masked_fill_(where, value)
    return logits


class RollingSum:
    """Weighted sum (R, *P, F) in `dtype` of windows over R rows of an image, from row `first` on.

    The channels of a place are adjacent in memory, as fast networks output them: another order would need a copy. If
    the weights sum to one in every voxel, the sum is a mean, and no partial sum exceeds the largest summed value.
    """

    def __init__(
        self, *, num_channels: int, num_rows: int, plane: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.first = 0
        self.total = torch.zeros((num_rows, *plane, num_channels), dtype=dtype, device=device)

    def add(self, window: Tensor, *, weight: Tensor, place: Sequence[int]) -> None:
        """Adds a window (F, *W) with its weight (*W) at `place`."""
        total = self.total[box_at((place[0] - self.first, *place[1:]), weight.shape)]
        # on a CPU a few rows at a time: copies for another layout or dtype then stay in the cache
        rows = ROWS if total.device.type == "cpu" else len(total)
        parts = (total, window.movedim(0, -1), weight.to(total.dtype).unsqueeze(-1))
        for total_rows, window_rows, weight_rows in zip(*(part.split(rows) for part in parts), strict=True):
            total_rows.addcmul_(window_rows.contiguous().to(total_rows.dtype), weight_rows)

    def rows(self, start: int, stop: int) -> Tensor:
        """The sum of the image's rows `start` to `stop` - 1, (F, stop - start, *P) float32: a view, or else a copy."""
        return self.total[start - self.first : stop - self.first].movedim(-1, 0).float()

    def drop_before(self, row: int) -> None:
        """Makes room: drops the rows before `row` of the image and adds as many empty rows at the end."""
        step, num_rows = row - self.first, len(self.total)
        if step <= 0:
            return
        # in steps, since a copy must not overlap its source
        for place in range(0, num_rows - step, step):
            count = min(step, num_rows - step - place)
            self.total[place : place + count] = self.total[place + step : place + step + count]
        self.total[max(0, num_rows - step) :] = 0
        self.first = row
