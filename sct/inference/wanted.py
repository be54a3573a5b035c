"""Which patches of an image are predicted, and few windows that hold them.

Letters: S size of an image (2 or 3 dims), G its grid of patches. Windows and boxes are in voxels of the image, if not
said otherwise.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sct.data.cases import Box

# first voxels of a window
Start = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Wanted:
    """Patches of an image that are predicted; all others are background.

    patches (*G) bool; patch: its voxels along each axis; windows: first voxels of windows that hold these patches, in
    order. An inferer with windows of its own, on a grid, does not need them.
    """

    patches: Tensor
    patch: tuple[int, ...]
    windows: tuple[Start, ...]

    def voxels(self, box: Box) -> Tensor:
        """A box of the image as a mask: True where a patch is wanted. False beyond the image's patches."""
        mask = self.patches
        for axis, (edge, size) in enumerate(zip(box, self.patch, strict=True)):
            cells = torch.arange(edge.start, edge.stop).div(size, rounding_mode="floor")
            inside = (cells >= 0) & (cells < mask.shape[axis])
            mask = mask.index_select(axis, cells.clamp(0, mask.shape[axis] - 1))
            mask = mask & inside.reshape([-1 if other == axis else 1 for other in range(mask.ndim)])
        return mask

    def num_voxels(self, shape: Sequence[int]) -> int:
        """How many voxels of an image of `shape` are wanted."""
        counts = self.patches.long()
        for size, length in zip(reversed(self.patch), reversed(shape), strict=True):
            ends = torch.arange(1, counts.shape[-1] + 1).mul(size).clamp(max=length)
            counts = (counts * ends.diff(prepend=ends.new_zeros(1))).sum(dim=-1)
        return int(counts)

    def hull(self, rows: slice) -> Box | None:
        """The smallest box of whole patches that holds those wanted in some rows of the first axis; None for none."""
        first, last = rows.start // self.patch[0], -(-rows.stop // self.patch[0])
        found = hull_of(self.patches[max(0, first) : max(0, last)])
        if found is None:
            return None
        across = zip(found[1:], self.patch[1:], strict=True)
        return (rows, *(slice(edge.start * size, edge.stop * size) for edge, size in across))

    def padded_starts(
        self, shape: Sequence[int], window: Sequence[int], *, padded: Sequence[int], multiple: Sequence[int]
    ) -> list[Start]:
        """First voxels of the windows of an image of `shape` on its padded image, in order: multiples of `multiple`.

        A window that begins between two multiples becomes two windows, which together hold all of it.
        """
        found: set[Start] = set()
        for start in self.windows:
            options = []
            for at, edge, length, size, unit in zip(start, window, shape, padded, multiple, strict=True):
                last, moved = size - edge, at + (size - length) // 2
                # what ends with the image ends with its padding too
                first = last if at + edge >= length else moved // unit * unit
                options.append({min(first, last), min(last if at + edge >= length else -(-moved // unit) * unit, last)})
            found.update(itertools.product(*options))
        return sorted(found)

    def part(self, box: Box) -> "Wanted":
        """A box of the image, which begins with a patch, as an image by itself, with the windows that begin in it."""
        cells = tuple(
            slice(edge.start // size, -(-edge.stop // size)) for edge, size in zip(box, self.patch, strict=True)
        )
        inside = (
            place
            for place in self.windows
            if all(edge.start <= at < edge.stop for at, edge in zip(place, box, strict=True))
        )
        moved = (tuple(at - edge.start for at, edge in zip(place, box, strict=True)) for place in inside)
        return Wanted(self.patches[cells], self.patch, tuple(moved))


def windows_for(
    patches: Tensor, *, patch: Sequence[int], shape: Sequence[int], window: Sequence[int], context: bool
) -> tuple[Start, ...]:
    """First voxels of few windows that together hold the patches (*G) bool of an image of `shape`, in order.

    Each patch is in a window that holds all of it. With `context`, the window holds a patch more on either side where
    the image goes on, along axes where it has room for three. The window with most patches that no other one has is
    taken first, until each patch has one (a greedy cover); then each is moved so that what it was taken for lies in its
    middle. Windows begin with a patch, or end with the image.
    """
    cells = [max(1, edge // size) for edge, size in zip(window, patch, strict=True)]
    core = [count - 2 if context and count > 2 else count for count in cells]
    starts = set()
    for group in groups_of(patches.numpy(), core=core):
        start = []
        for edge, unit, size, length in zip(group, patch, shape, window, strict=True):
            spare = (edge.start + edge.stop) * unit - length  # twice the start, if it is centred
            start.append(max(0, min(-(-spare // (2 * unit)) * unit, size - length)))
        starts.add(tuple(start))
    return tuple(sorted(starts))


def groups_of(patches: np.ndarray, *, core: Sequence[int]) -> list[Box]:
    """Boxes, in patches, of at most `core` patches along each axis, that hold all patches (*G) bool: a greedy cover."""
    left, groups = patches.copy(), []
    core = [min(edge, size) for edge, size in zip(core, left.shape, strict=True)]
    counts = sums_of(left, core)
    # the most of each row, so that not all are searched again for each box
    most = counts.reshape(len(counts), -1).max(axis=1)
    while most.max():
        row = int(most.argmax())
        at = [row, *(int(place) for place in np.unravel_index(counts[row].argmax(), counts.shape[1:]))]
        taken = left[tuple(slice(place, place + edge) for place, edge in zip(at, core, strict=True))]
        inside = [(int(places.min()), int(places.max())) for places in taken.nonzero()]
        groups.append(tuple(slice(a + place, b + 1 + place) for (a, b), place in zip(inside, at, strict=True)))
        taken[...] = False
        # only boxes that overlap this one have fewer patches now
        near = [
            slice(max(0, place - edge + 1), min(length, place + edge))
            for place, edge, length in zip(at, core, counts.shape, strict=True)
        ]
        seen = tuple(slice(part.start, part.stop + edge - 1) for part, edge in zip(near, core, strict=True))
        counts[tuple(near)] = sums_of(left[seen], core)
        most[near[0]] = counts[near[0]].reshape(near[0].stop - near[0].start, -1).max(axis=1)
    return groups


def sums_of(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The number of True values in each box of `size` within a mask (*G): (*(G - size + 1)) int32."""
    sums = mask.astype(np.int32)
    for axis, edge in enumerate(size):
        total = np.cumsum(sums, axis=axis, dtype=np.int32)
        sums = total.take(range(edge - 1, total.shape[axis]), axis=axis)
        before = [slice(None)] * mask.ndim
        before[axis] = slice(1, None)
        sums[tuple(before)] -= total.take(range(total.shape[axis] - edge), axis=axis)
    return sums


def hull_of(mask: Tensor) -> Box | None:
    """The smallest box that holds all True values of a mask; None if there are none."""
    places = mask.nonzero()
    if not len(places):
        return None
    lowest, highest = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
    return tuple(slice(first, last + 1) for first, last in zip(lowest, highest, strict=True))


def joined(boxes: Sequence[Box]) -> list[Box]:
    """Disjoint boxes that hold all boxes: those that overlap become the smallest box that holds both."""
    found: list[Box] = []
    for box in boxes:
        # a box that has grown may overlap others that it did not overlap before
        while overlapping := [other for other in found if overlap(box, other)]:
            found = [other for other in found if not overlap(box, other)]
            box = tuple(
                slice(min(edge.start for edge in edges), max(edge.stop for edge in edges))
                for edges in zip(box, *overlapping, strict=True)
            )
        found.append(box)
    return found


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have a voxel in common."""
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def volume_of(box: Box) -> int:
    """Number of voxels of a box."""
    return math.prod(edge.stop - edge.start for edge in box)
