"""From the stitched map of an image to the logits of its rows: the second stage of fast inference.

Legend: C channels, Q channels of the logits, S the preprocessed grid (2 or 3 dims), T its grid of places, see
`sct.inference.stages`. A box is given in voxels of the padded image, on which the windows lie, if not said otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sct.data.cases import Box
from sct.inference.stages import Stages
from sct.inference.stitch import RollingSum, fill
from sct.inference.wanted import Wanted


@dataclass(frozen=True, eq=False)
class Readout:
    """What the logits of an image's rows are computed from.

    total: stitched map of the rows that are not final yet; inverse (*T): inf where no window is; padded (C, ...);
    before: voxels added at each start; shape: size of the image without padding; background: logits (Q) of a background
    voxel; wanted: of the image, see `Inferer.chunks`.
    """

    stages: Stages
    total: RollingSum
    inverse: Tensor
    padded: Tensor
    before: tuple[int, ...]
    shape: tuple[int, ...]
    background: Tensor
    wanted: Wanted | None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """Logits (Q, stop - start, *S[1:]) of rows of the padded image, float32, without padding.

        Computed from these rows and the rows that they depend on, and of columns only from those that what is wanted
        depends on.
        """
        columns = (slice(first, first + size) for first, size in zip(self.before[1:], self.shape[1:], strict=True))
        whole = (slice(start, stop), *columns)
        box = whole if self.wanted is None else self.wanted_of(whole, self.wanted)
        if box is None:
            return filled(self.background, sizes(whole), device=self.padded.device)
        places = self.places_for(box)
        read = tuple(
            slice(part.start * step, part.stop * step) for part, step in zip(places, self.stages.stride, strict=True)
        )
        own = moved(box, by=[-part.start for part in read])
        rows = self.total.rows(places[0].start, places[0].stop)
        logits = self.stages.image_logits(
            rows[(slice(None), slice(None), *places[1:])], self.padded[(slice(None), *read)], own[0]
        )
        # padding is cut away before the numbers take twice the memory
        logits = logits[(slice(None), slice(None), *own[1:])].float()
        if (empty := self.inverse[places].isinf()).any():
            fill(logits, where=self.stages.spread(empty)[own], values=self.background)
        if self.wanted is None:
            return logits
        in_image = moved(box, by=[-edge for edge in self.before])
        # where logits are stitched, this is a view of the sums, of rows that no window changes any more
        fill(logits, where=~self.wanted.voxels(in_image).to(logits.device), values=self.background)
        if box == whole:
            return logits
        chunk = filled(self.background, sizes(whole), device=logits.device, last=logits.stride(0) == 1)
        chunk[(slice(None), slice(None), *in_image[1:])] = logits
        return chunk

    def wanted_of(self, whole: Box, wanted: Wanted) -> Box | None:
        """The box of what is wanted in a box that has no padding across the rows; None for nothing."""
        hull = wanted.hull(moved(whole, by=[-edge for edge in self.before])[0])
        if hull is None:
            return None
        across = zip(moved(hull, by=self.before)[1:], whole[1:], strict=True)
        return (whole[0], *(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in across))

    def places_for(self, box: Box) -> Box:
        """The places that the logits of a box depend on."""
        axes = zip(box, self.stages.reaches, self.stages.stride, self.inverse.shape, strict=True)
        return tuple(
            slice(max(0, part.start - reach) // step, min(size, -(-(part.stop + reach) // step)))
            for part, reach, step, size in axes
        )


def moved(box: Box, *, by: Sequence[int]) -> Box:
    """A box moved along each axis."""
    return tuple(slice(part.start + step, part.stop + step) for part, step in zip(box, by, strict=True))


def sizes(box: Box) -> tuple[int, ...]:
    """The size of a box along each axis."""
    return tuple(part.stop - part.start for part in box)


def filled(values: Tensor, shape: Sequence[int], *, device: torch.device, last: bool = True) -> Tensor:
    """`values` (Q) at every voxel: (Q, *shape) float32; last: the channels of a voxel are adjacent in memory."""
    values = values.to(device, torch.float32)
    if last:
        return values.expand(*shape, len(values)).clone(memory_format=torch.contiguous_format).movedim(-1, 0)
    return values.reshape(-1, *[1] * len(shape)).expand(-1, *shape).clone(memory_format=torch.contiguous_format)
