"""Volumes at another spacing: where their voxels lie, as MONAI says; linear mixing along one axis after the other.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

# Relative affines come from headers in float32: below this, entries are 0.
TOLERANCE = 1e-6


def resample(
    voxels: np.ndarray, *, affine: np.ndarray, spacing: Sequence[float], mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (C, *S) at `spacing`, -1 for an axis that stays, float32; and their affine (D + 1, D + 1).

    mode: bilinear, or nearest for labels. MONAI's `Spacing`, whose linear mixing is done here at a fifth of the time
    wherever the axes stay parallel, as they do unless the file is sheared.
    """
    change = Spacing(pixdim=spacing, mode=mode, padding_mode="border", dtype=np.float32)
    if mode == "bilinear":
        planned = change(MetaTensor(torch.empty(1).expand(voxels.shape), affine=torch.from_numpy(affine)), lazy=True)
        assert isinstance(planned, MetaTensor)
        new_affine = np.asarray(planned.peek_pending_affine(), dtype=np.float64)
        places = places_along_axes(planned.peek_pending_shape(), affine=new_affine, source_affine=affine)
        if places is not None:
            return resample_linear(voxels, places=places), new_affine
    changed = change(MetaTensor(torch.from_numpy(np.ascontiguousarray(voxels)), affine=torch.from_numpy(affine)))
    assert isinstance(changed, MetaTensor)
    return changed.as_tensor().numpy(), changed.affine.numpy().astype(np.float64)


def places_along_axes(
    shape: Sequence[int], *, affine: np.ndarray, source_affine: np.ndarray
) -> list[np.ndarray] | None:
    """Where the voxels of a grid of `shape` (*S) lie on the grid of a source, in its voxels: float64 along every axis.

    None where the axes of the two are not parallel, in this order; affines (D + 1, D + 1) or (4, 4).
    """
    num_dims = len(shape)
    spatial = np.ix_([*range(num_dims), -1], [*range(num_dims), -1])
    relative = np.linalg.inv(source_affine[spatial]) @ affine[spatial]
    scales = np.diag(relative)[:num_dims]
    if np.abs(relative[:num_dims, :num_dims] - np.diag(scales)).max() > TOLERANCE:
        return None
    return [
        scale * np.arange(n) + shift for n, scale, shift in zip(shape, scales, relative[:num_dims, -1], strict=True)
    ]


def resample_linear(voxels: np.ndarray, *, places: Sequence[np.ndarray]) -> np.ndarray:
    """Voxels (C, *S) at `places` along every axis, in any memory order -> (C, *places), float32 and contiguous.

    Linear interpolation, as every axis apart from the others allows: far fewer sums than of 2^D corners for every
    voxel, and no copy of the source. Outside, the outermost voxel goes on.
    """
    if voxels.strides[0] < 0:
        voxels = voxels.copy()  # channels have no places to turn
    # torch knows no flipped axes; in the order of memory, rows are copied as they lie
    flipped = tuple(axis for axis, stride in enumerate(voxels.strides) if stride < 0)
    order = sorted(range(voxels.ndim), key=lambda axis: -abs(voxels.strides[axis]))
    image = np.flip(voxels, flipped).transpose(order).astype(np.float32, copy=False)
    along = {order.index(axis): (axis in flipped, place) for axis, place in enumerate(places, start=1)}
    # first what makes the volume small, and rows before what lies within one
    for dim in sorted(along, key=lambda dim: (len(along[dim][1]) >= image.shape[dim], dim)):
        is_flipped, place = along[dim]
        image = interpolate(image, dim=dim, places=image.shape[dim] - 1 - place if is_flipped else place)
    return torch.from_numpy(image.transpose(np.argsort(order))).contiguous().numpy()


def interpolate(image: np.ndarray, *, dim: int, places: np.ndarray) -> np.ndarray:
    """The image (float32) at `places` along one axis, linear between its voxels."""
    last = image.shape[dim] - 1
    if len(places) == last + 1 and np.abs(places - np.arange(last + 1)).max() < TOLERANCE:
        return image
    places = np.clip(places, 0, last)
    first = np.minimum(places.astype(np.int64), max(0, last - 1))
    share = torch.from_numpy((places - first).astype(np.float32)).reshape([-1] + [1] * (image.ndim - 1 - dim))
    # numpy takes twice as fast as torch, torch mixes twice as fast as numpy
    below, above = np.take(image, first, axis=dim), np.take(image, np.minimum(first + 1, last), axis=dim)
    return torch.from_numpy(below).lerp_(torch.from_numpy(above), share).numpy()
