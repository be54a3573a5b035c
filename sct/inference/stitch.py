"""The mean of overlapping windows, kept only for the rows that a window can still touch.

Legend: F channels (of logits or of features), R rows kept, P size of a row (the image's other axes), S the image's
size, W window size, all in places of what is stitched: voxels of logits, coarser ones of features.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Rows of a window that are added together: with 14 classes and 96 x 96 voxels a row, 2 MB.
ROWS = 4


def inverse_weight(shape: Sequence[int], *, places: Iterable[Sequence[int]], weight: Tensor) -> Tensor:
    """One over the summed weights (*W) of the windows at `places` in every voxel: (*S) float32, inf where none is."""
    total = torch.zeros(tuple(shape), device=weight.device)
    for place in places:
        total[box_at(place, weight.shape)] += weight
    return total.reciprocal_()


def box_at(place: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    """The voxels of a window at `place`."""
    return tuple(slice(at, at + edge) for at, edge in zip(place, window, strict=True))


class RollingSum:
    """Weighted sum (R, *P, F) in `dtype` of windows over the R rows of an image from row `first` on.

    Channels of a place are side by side, as the networks that are made for time give them: turned around, they would
    pass through memory once more. Weights that sum to one in every voxel make it a mean, and none of the sums larger
    than what is summed.
    """

    def __init__(
        self, *, num_channels: int, num_rows: int, plane: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.first = 0
        self.total = torch.zeros((num_rows, *plane, num_channels), dtype=dtype, device=device)

    def add(self, window: Tensor, *, weight: Tensor, place: Sequence[int]) -> None:
        """Adds a window (F, *W) with its weight (*W) at `place`."""
        total = self.total[box_at((place[0] - self.first, *place[1:]), weight.shape)]
        # on a processor a few rows at a time, so that what a change of layout and precision copies stays near it
        rows = ROWS if total.device.type == "cpu" else len(total)
        parts = (total, window.movedim(0, -1), weight.to(total.dtype).unsqueeze(-1))
        for own, new, share in zip(*(part.split(rows) for part in parts), strict=True):
            own.addcmul_(new.contiguous().to(own.dtype), share)

    def rows(self, start: int, stop: int) -> Tensor:
        """The sum in rows of the image, (F, stop - start, *P) float32, a view; of a sum in half precision a copy."""
        return self.total[start - self.first : stop - self.first].movedim(-1, 0).float()

    def drop_before(self, row: int) -> None:
        """Makes room: the rows before `row` of the image are forgotten, as many new ones at the end are empty."""
        step, num_rows = row - self.first, len(self.total)
        if step <= 0:
            return
        # in steps, since a copy must not overlap its source
        for place in range(0, num_rows - step, step):
            count = min(step, num_rows - step - place)
            self.total[place : place + count] = self.total[place + step : place + step + count]
        self.total[max(0, num_rows - step) :] = 0
        self.first = row
