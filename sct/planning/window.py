"""How large voxels, windows and patches are: pure rules, from sizes to sizes.

Letters: D axes of the network's window (2 or 3).
"""

import math
from collections.abc import Sequence

import numpy as np

from sct.models.patch import Extent

# from this ratio of the largest voxel side to the smallest, voxels count as anisotropic, as in nnU-Net
ANISOTROPIC = 3.0
# voxels along a side of a patch, and where a window would have few tokens
PATCH_SIZE, FINE_PATCH_SIZE = 8, 4
# from this ratio of a patch's side in mm to its shortest one, the patch has half as many voxels along it. At sqrt(2)
# both are equally far from a cube; the ratio is a little larger, because twice as many tokens cost more time
LONG_SIDE = 1.75
# share of a typical image that a window covers at least, by voxels that are larger if need be
LEAST_COVERED = 1 / 16
# by how much larger at most, along an axis
LARGEST_STEP = 2.0
# voxels that a class keeps when voxels are made larger
LEAST_OF_CLASS = 100
# tokens of a window from which patches of `PATCH_SIZE` are fine enough
LEAST_TOKENS = 64
# pixels up to which a picture has patches of 8; a larger one would have too many tokens
MOST_FINE_PIXELS = 256 * 256


def typical_spacing(spacings: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of spacings (M, D); of an anisotropic axis the 10th percentile, at most 3 times the finest axis.

    Along a much coarser axis even a patch of few voxels would reach too far.
    """
    median = np.median(spacings, axis=0)
    finest = float(median.min())
    coarse = np.percentile(spacings, 10, axis=0)
    return tuple(
        rounded(min(float(low), ANISOTROPIC * finest) if middle > ANISOTROPIC * finest else float(middle))
        for middle, low in zip(median, coarse, strict=True)
    )


def enlargement(shape: Sequence[int], *, budget: float, smallest_class: float) -> float:
    """By how much voxels grow along every axis, so that a window of `budget` voxels covers enough of `shape`.

    smallest_class: voxels of the smallest class in a typical case; 0: not known
    """
    wanted = (math.prod(shape) * LEAST_COVERED / budget) ** (1 / len(shape))
    kept = (smallest_class / LEAST_OF_CLASS) ** (1 / len(shape)) if smallest_class else LARGEST_STEP
    return max(1.0, min(wanted, kept, LARGEST_STEP))


def resampled_shape(
    shapes: Sequence[Sequence[int]], *, spacings: Sequence[Sequence[float]], spacing: Sequence[float]
) -> tuple[int, ...]:
    """The median shape after resampling images of shapes and spacings (M, D) to one spacing (D,)."""
    sizes = np.array(shapes) * np.array(spacings) / np.array(spacing)
    return tuple(max(1, round(float(size))) for size in np.median(sizes, axis=0))


def window_of(shape: Sequence[int], *, patch: Extent, budget: float) -> tuple[int, ...]:
    """The window with at most `budget` voxels, in the proportions of a typical image of `shape`, and not larger.

    Every side is a multiple of the patch. The side that covers most of the image gives way first.
    """
    window = [edge * -(-size // edge) for size, edge in zip(shape, patch, strict=True)]
    while math.prod(window) > budget and any(side > edge for side, edge in zip(window, patch, strict=True)):
        longest = max(range(len(shape)), key=lambda axis: (window[axis] > patch[axis], window[axis] / shape[axis]))
        window[longest] -= patch[longest]
    return tuple(window)


def picture_size(shape: Sequence[int], *, budget: float, patch: Extent) -> tuple[int, int]:
    """What pictures of a typical `shape` are resized to: its proportions, at most `budget` pixels, never larger."""
    scale = min(1.0, math.sqrt(budget / math.prod(shape)))
    rows, columns = (edge * max(1, round(size * scale / edge)) for size, edge in zip(shape, patch, strict=True))
    return rows, columns


def patch_of(shape: Sequence[int], *, spacing: Sequence[float], budget: float) -> Extent:
    """Voxels of a patch along each axis: 8, more for large pictures, fewer where a window would have few tokens.

    Along an axis with long voxels it has fewer, see `near_cube`. shape, spacing (D,): of a typical image as the network
    sees it
    """
    voxels = min(math.prod(shape), budget)
    if len(shape) == 2:
        return near_cube(PATCH_SIZE if voxels <= MOST_FINE_PIXELS else 2 * PATCH_SIZE, spacing=spacing)
    patch = near_cube(PATCH_SIZE, spacing=spacing)
    return patch if voxels >= LEAST_TOKENS * math.prod(patch) else near_cube(FINE_PATCH_SIZE, spacing=spacing)


def near_cube(size: int, *, spacing: Sequence[float]) -> Extent:
    """A patch (D,) of `size` voxels along the finest axis, and half as many, or a quarter, along coarse axes."""
    finest = min(spacing)
    return tuple(halved(size, ratio=float(side) / finest) for side in spacing)


def halved(size: int, *, ratio: float) -> int:
    """Voxels along a side of a patch whose voxels are `ratio` times as long as along the finest axis; at least 2."""
    edge = size
    while edge > 2 and edge * ratio >= LONG_SIDE * size:
        edge //= 2
    return edge


def rounded(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")
