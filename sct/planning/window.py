"""How large voxels, windows and patches are: pure rules, from sizes to sizes.

Letters: D axes of the network's window (2 or 3).
"""

import math
from collections.abc import Sequence

import numpy as np

# from this ratio of the largest voxel side to the smallest, voxels count as anisotropic, as in nnU-Net
ANISOTROPIC = 3.0
# share of a typical image that a window covers at least, by voxels that are larger if need be
LEAST_COVERED = 1 / 16
# by how much larger at most, along an axis
LARGEST_STEP = 2.0
# voxels that a class keeps when voxels are made larger
LEAST_OF_CLASS = 100
# tokens of a window from which patches of 8 are fine enough
LEAST_TOKENS = 64
# pixels up to which a picture has patches of 8; a larger one would have too many tokens
MOST_FINE_PIXELS = 256 * 256


def typical_spacing(spacings: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of spacings (M, D); of an anisotropic axis the 10th percentile, at most 3 times the finest axis.

    A patch has the same number of voxels along every axis: along a much coarser axis it would reach too far.
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


def window_of(shape: Sequence[int], *, patch: int, budget: float) -> tuple[int, ...]:
    """The window with at most `budget` voxels, in the proportions of a typical image of `shape`, and not larger.

    Every side is a multiple of the patch. The side that covers most of the image gives way first.
    """
    window = [patch * -(-size // patch) for size in shape]
    while math.prod(window) > budget and max(window) > patch:
        longest = max(range(len(shape)), key=lambda axis: (window[axis] > patch, window[axis] / shape[axis]))
        window[longest] -= patch
    return tuple(window)


def picture_size(shape: Sequence[int], *, budget: float, patch: int) -> tuple[int, int]:
    """What pictures of a typical `shape` are resized to: its proportions, at most `budget` pixels, never larger."""
    scale = min(1.0, math.sqrt(budget / math.prod(shape)))
    rows, columns = (patch * max(1, round(size * scale / patch)) for size in shape)
    return rows, columns


def patch_of(shape: Sequence[int], *, budget: float) -> int:
    """Voxels along each side of a patch: 8, more for large pictures, fewer where a window would have few tokens."""
    voxels = min(math.prod(shape), budget)
    if len(shape) == 2:
        return 8 if voxels <= MOST_FINE_PIXELS else 16
    return 8 if voxels >= LEAST_TOKENS * 8**3 else 4


def rounded(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")
