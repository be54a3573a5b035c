"""Boxes of voxels of a volume: of those above a value, and of those of a mask; and their order in memory.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

import numpy as np

from sct.data.cases import Box


def box_above(voxels: np.ndarray, value: float) -> Box | None:
    """The box (len(S) slices) of the voxels (C, *S) that are above a value in any channel; None where none is.

    A voxel that is not a number is not above it, and hides no other.
    """
    num_dims, largest = voxels.ndim - 1, np.fmax if voxels.dtype.kind == "f" else np.maximum
    # each pass runs through memory once
    last = largest.reduce(voxels, axis=tuple(range(num_dims))) > value
    others = largest.reduce(voxels, axis=(0, num_dims)) > value
    if not last.any():
        return None
    rows = [
        others.any(axis=tuple(other for other in range(num_dims - 1) if other != axis)) for axis in range(num_dims - 1)
    ]
    places = [np.flatnonzero(row) for row in [*rows, last]]
    return tuple(slice(int(along[0]), int(along[-1]) + 1) for along in places)


def box_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and the one after the last of the box round a mask (*S), (len(S),) each; all of an empty one."""
    shape = np.array(mask.shape)
    if not mask.any():
        return np.zeros_like(shape), shape
    rows = [np.moveaxis(mask, axis, 0).reshape(n, -1).max(axis=1) for axis, n in enumerate(shape)]
    places = [np.flatnonzero(row) for row in rows]
    return np.array([p[0] for p in places]), np.array([p[-1] + 1 for p in places])


def in_rows(voxels: np.ndarray) -> np.ndarray:
    """Voxels in float32, in rows of the last axis, as torch takes them; a copy if need be."""
    rows = np.ascontiguousarray(voxels, dtype=np.float32)
    # along an axis of one voxel, a flipped view counts as contiguous
    return rows if all(stride >= 0 for stride in rows.strides) else rows.copy()
