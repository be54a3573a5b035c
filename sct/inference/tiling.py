"""Positions of windows on an image, the weights of their voxels, and which windows hold only air.

Legend: C channels, S size of the image, W size of the window, n windows along each axis.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# standard deviation of the gaussian weights in windows, and the least weight, as in MONAI
SIGMA = 0.125
LEAST_WEIGHT = 1e-3


def pad_to_window(
    image: Tensor, window: Sequence[int], *, multiple: Sequence[int] | None = None
) -> tuple[Tensor, list[int]]:
    """Pads an image (C, *S) with zeros on both sides to `padded_shape`; also returns the voxels added at each start."""
    target = padded_shape(image.shape[1:], window, multiple=multiple)
    missing = [size - length for size, length in zip(target, image.shape[1:], strict=True)]
    before = [voxels // 2 for voxels in missing]
    pads = [pad for voxels in reversed(missing) for pad in (voxels // 2, voxels - voxels // 2)]
    return (F.pad(image, pads) if any(pads) else image), before


def padded_shape(shape: Sequence[int], window: Sequence[int], *, multiple: Sequence[int] | None = None) -> list[int]:
    """The padded size of an image of `shape`: at least one window along each axis, and a multiple of `multiple`."""
    sizes = [max(size, edge) for size, edge in zip(shape, window, strict=True)]
    return [-(-size // step) * step for size, step in zip(sizes, multiple or [1] * len(sizes), strict=True)]


def window_starts(
    shape: Sequence[int],
    window: Sequence[int],
    *,
    overlap: float,
    multiple: Sequence[int] | None = None,
    even: bool = False,
) -> list[list[int]]:
    """First voxels of the windows along each axis, multiples of `multiple`; the last window ends with the image.

    even: as many windows, with about the same overlap between any two; else, as in MONAI, the last window is moved back
    """
    starts = []
    for size, edge, unit in zip(shape, window, multiple or [1] * len(window), strict=True):
        step = max(unit, int(edge * (1 - overlap)) // unit * unit)
        along = [*range(0, size - edge, step), size - edge]
        if even:
            # an exact step is no longer than `step`; rounded down to units, no gap becomes longer than that
            along = [number * (size - edge) // max(1, len(along) - 1) // unit * unit for number in range(len(along))]
            along[-1] = size - edge
        starts.append(along)
    return starts


def window_weight(window: Sequence[int], *, blending: str) -> Tensor:
    """Weight (*W) of a window's voxels, float32, as in MONAI's sliding-window inference.

    blending: constant, or gaussian: with a standard deviation of an eighth of the window, and at least `LEAST_WEIGHT`.
    """
    if blending == "constant":
        return torch.ones(tuple(window))
    assert blending == "gaussian", "checked by the inferer"
    weight = torch.ones(())
    for size in window:
        distance = torch.arange(size) - (size - 1) / 2
        weight = weight.unsqueeze(-1) * torch.exp(distance**2 / (-2 * (size * SIGMA) ** 2))
    return weight.clamp_(min=max(weight.min().item(), LEAST_WEIGHT))


def occupied(mask: Tensor, *, places: Sequence[tuple[int, ...]], window: Sequence[int]) -> list[tuple[int, ...]]:
    """The windows, by their first voxels, that contain a True voxel of a mask (*S) bool.

    Most windows share their starts along an axis with others. So the axes are reduced one after the other, each for the
    starts that are there: this costs as much as reading the mask a few times.
    """
    if not places:
        return []
    starts = [sorted(set(along)) for along in zip(*places, strict=True)]
    for axis, (firsts, edge) in enumerate(zip(starts, window, strict=True)):
        mask = torch.stack([mask.narrow(axis, first, edge).any(dim=axis) for first in firsts], dim=axis)
    numbers = [{first: number for number, first in enumerate(firsts)} for firsts in starts]
    return [place for place in places if mask[tuple(at[one] for at, one in zip(numbers, place, strict=True))]]
