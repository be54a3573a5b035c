"""Volumes at another spacing: where their voxels lie, as MONAI's `Spacing` says; linear mixing along one axis after the
other.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sct.data.cases import Box, whole_box
from sct.data.loading.boxes import in_rows
from sct.runtime.imports import IMPORTING

# Relative affines come from headers in float32: below this, entries are 0.
TOLERANCE = 1e-6
# mm: a spacing that is as close to the wanted one stays as it is, as in MONAI
SPACING_TOLERANCE = 1e-3
# Voxels that are looked at together: 4 MB in float32.
NEAR_VOXELS = 2**20


def resample(
    voxels: np.ndarray, *, affine: np.ndarray, spacing: Sequence[float], mode: str, within: Box | None = None
) -> tuple[np.ndarray, np.ndarray, Box]:
    """Voxels (C, *S) at `spacing`, -1 for an axis that stays, float32; the affine (D + 1, D + 1) of the whole new grid.

    mode: bilinear, or nearest for labels. within: a box of `voxels`; what depends on no voxel of it may be left out.
    The third is the box of the new grid that is returned. Its voxels are those of MONAI's `Spacing`, whose linear
    mixing is done here at a fifth of the time wherever the axes stay parallel, as they do unless the file is sheared.
    """
    if mode == "bilinear":
        shape, new_affine = spaced_grid(voxels.shape[1:], affine=affine, spacing=spacing)
        places = places_along_axes(shape, affine=new_affine, source_affine=affine)
        if places is not None:
            box = whole_box(shape)
            if within is not None:
                edges = zip(places, within, voxels.shape[1:], strict=True)
                box = tuple(depends_on(along, edge, size=size) for along, edge, size in edges)
            return resample_linear(voxels, places=places, box=box), new_affine, box
    changed, new_affine = resample_by_monai(voxels, affine=affine, spacing=spacing, mode=mode)
    return changed, new_affine, whole_box(changed.shape[1:])


def depends_on(places: np.ndarray, edge: slice, *, size: int) -> slice:
    """Which places along an axis of `size` voxels mix one of the voxels `edge`, in a row: the first to the last."""
    first = np.clip(np.floor(places), 0, size - 1)
    mixing = np.flatnonzero((first + 1 >= edge.start) & (first < edge.stop))
    return slice(int(mixing[0]), int(mixing[-1]) + 1) if len(mixing) else slice(0, len(places))


def resample_by_monai(
    voxels: np.ndarray, *, affine: np.ndarray, spacing: Sequence[float], mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (C, *S) and their affine as those of `resample`, for axes in any direction, and for labels."""
    # the import takes seconds, and most predictions do not get here
    with IMPORTING:
        from monai.data import MetaTensor
        from monai.transforms import Spacing

    change = Spacing(pixdim=spacing, mode=mode, padding_mode="border", dtype=np.float32)
    changed = change(MetaTensor(torch.from_numpy(in_rows(voxels)), affine=torch.from_numpy(affine)))
    assert isinstance(changed, MetaTensor)
    return changed.as_tensor().numpy(), changed.affine.numpy().astype(np.float64)


def spaced_grid(
    shape: Sequence[int], *, affine: np.ndarray, spacing: Sequence[float]
) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape (*S) and affine (as large as `affine`) of a grid at `spacing` over a grid of `shape` (*S).

    The grid of MONAI's `Spacing`, to the last digit. Its axes are the source's without shear, and the first voxels of
    both coincide; if the source is sheared so much that no corner of it is the first along all axes, the centres do.
    spacing: mm, -1 for an axis that stays. affine: (D + 1, D + 1) or (4, 4).
    """
    num_dims = len(shape)
    source = embedded(affine, num_dims=num_dims)
    directions = source[:num_dims, :num_dims]
    present = np.sqrt(np.sum(directions**2, axis=0))
    present[present == 0] = 1.0
    wanted = np.asarray(spacing, dtype=np.float64)
    stays = (wanted <= 0) | (np.abs(present - wanted) <= SPACING_TOLERANCE)
    # rotation times upper triangle (of zooms and shears), of which the rotation remains
    triangle = np.linalg.cholesky(directions.T @ directions).T
    target = np.eye(num_dims + 1)
    target[:num_dims, :num_dims] = (
        directions @ np.linalg.inv(triangle) @ np.diag(np.sign(np.diag(triangle)) * np.where(stays, present, wanted))
    )
    corners = np.asarray(np.meshgrid(*((0.0, size - 1.0) for size in shape), indexing="ij")).reshape(num_dims, -1)
    corners = np.concatenate((corners, np.ones_like(corners[:1])))
    placed = (np.linalg.solve(target, source) @ corners)[:-1]
    new_shape = np.round(np.ptp(placed, axis=1) + 1.0)
    first = [i for i, corner in enumerate(placed.T) if np.allclose((placed - corner[:, None]).min(axis=1), 0.0)]
    if first:
        target[:num_dims, -1] = (source @ corners)[:-1, first[0]]
    else:
        centre, new_centre = np.asarray(shape) / 2.0, new_shape / 2.0
        target[:num_dims, -1] = directions @ centre + source[:-1, -1] - target[:num_dims, :num_dims] @ new_centre
    relative = embedded(np.linalg.solve(source, target), num_dims=len(affine) - 1)
    # torch and numpy round this product differently
    new_affine = torch.from_numpy(np.asarray(affine, dtype=np.float64)) @ torch.from_numpy(relative)
    return tuple(int(size) for size in new_shape), new_affine.numpy()


def embedded(affine: np.ndarray, *, num_dims: int) -> np.ndarray:
    """An affine as (num_dims + 1, num_dims + 1): of its first axes, or with further ones that stay."""
    changed = np.eye(num_dims + 1)
    both = min(num_dims, len(affine) - 1)
    changed[:both, :both], changed[:both, -1] = affine[:both, :both], affine[:both, -1]
    return changed


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


@dataclass(frozen=True)
class Mix:
    """Linear mixing along an axis: 1 - `share` (n) float32 of the voxel `first` (n) int64, `share` of the next one."""

    first: np.ndarray
    share: np.ndarray
    shrinks: bool  # whether the whole axis has fewer places than voxels

    @classmethod
    def at(cls, places: np.ndarray, *, size: int) -> "Mix":
        """Of an axis of `size` voxels at `places`; outside, the outermost voxel goes on."""
        if len(places) == size and np.abs(places - np.arange(size)).max() < TOLERANCE:
            return cls(np.arange(size), np.zeros(size, dtype=np.float32), False)
        inside = np.clip(places, 0, size - 1)
        first = np.minimum(inside.astype(np.int64), max(0, size - 2))
        return cls(first, (inside - first).astype(np.float32), len(places) < size)

    def __len__(self) -> int:
        return len(self.first)

    def part(self, some: slice) -> "Mix":
        """Some of the places."""
        return Mix(self.first[some], self.share[some], self.shrinks)

    def moved(self, by: int) -> "Mix":
        """The same on an axis that begins `by` voxels later."""
        return Mix(self.first - by, self.share, self.shrinks)


def resample_linear(voxels: np.ndarray, *, places: Sequence[np.ndarray], box: Box | None = None) -> np.ndarray:
    """Voxels (C, *S) at `places` along every axis, of any type and memory order -> (C, *places), float32, contiguous.

    Linear interpolation, as every axis apart from the others allows: far fewer sums than of 2^D corners for every
    voxel, and no copy of the source. Outside, the outermost voxel goes on. box: a part of the places, alone.
    """
    if voxels.strides[0] < 0:
        voxels = voxels.copy()  # channels have no places to turn
    # torch knows no flipped axes; in the order of memory, rows are copied as they lie
    flipped = tuple(axis for axis, stride in enumerate(voxels.strides) if stride < 0)
    order = sorted(range(voxels.ndim), key=lambda axis: (voxels.shape[axis] == 1, -abs(voxels.strides[axis])))
    image = np.flip(voxels, flipped).transpose(order)
    ways = {}
    for axis, along in enumerate(places, start=1):
        dim = order.index(axis)
        size = image.shape[dim]
        mix = Mix.at(size - 1 - along if axis in flipped else along, size=size)
        mix = mix if box is None else mix.part(box[axis - 1])
        # voxels that no place lies in or beside are not read
        start, stop = int(mix.first.min()), int(mix.first.max()) + 2
        image, ways[dim] = image[(slice(None),) * dim + (slice(start, stop),)], mix.moved(start)
    slowest = {dim: ways.pop(dim) for dim in (0,) if dim in ways}
    return transposed(by_planes(image, ways), slowest, order=np.argsort(order).tolist())


def by_planes(image: np.ndarray, ways: dict[int, Mix]) -> np.ndarray:
    """The image mixed along axes other than the first, float32; what makes it small comes first.

    A few planes at a time: they stay near the processor, and the volume is never whole in float32 at its own size.
    """
    shape = [len(ways[dim]) if dim in ways else size for dim, size in enumerate(image.shape)]
    dims = sorted(ways, key=lambda dim: (not ways[dim].shrinks, dim))
    result = np.empty(shape, dtype=np.float32)
    for rows in pieces(len(image), voxels=math.prod(image.shape[1:])):
        planes = image[rows]
        for dim in dims:
            planes = interpolate(planes, dim=dim, mix=ways[dim])
        result[rows] = planes
    return result


def transposed(image: np.ndarray, ways: dict[int, Mix], *, order: Sequence[int]) -> np.ndarray:
    """The image, float32, mixed along some axes but the last, and its axes in another order, contiguous."""
    shape = [len(ways[dim]) if dim in ways else size for dim, size in enumerate(image.shape)]
    result = np.empty([shape[dim] for dim in order], dtype=np.float32)
    last = order.index(image.ndim - 1)
    for columns in pieces(image.shape[-1], voxels=math.prod(shape[:-1])):
        part = image[..., columns]
        for dim, mix in ways.items():
            part = interpolate(part, dim=dim, mix=mix)
        result[(slice(None),) * last + (columns,)] = part.transpose(order)
    return result


def pieces(size: int, *, voxels: int) -> list[slice]:
    """An axis in pieces of as many places, of so many voxels each, as stay near the processor; of one at least."""
    count = max(1, NEAR_VOXELS // voxels)
    return [slice(start, start + count) for start in range(0, size, count)]


def interpolate(image: np.ndarray, *, dim: int, mix: Mix) -> np.ndarray:
    """The image mixed along one axis, float32."""
    image = image.astype(np.float32, copy=False)
    size, start = image.shape[dim], int(mix.first[0])
    if not mix.share.any() and np.array_equal(mix.first, np.arange(start, start + len(mix))):
        return image[(slice(None),) * dim + (slice(start, start + len(mix)),)]
    share = torch.from_numpy(mix.share).reshape([-1] + [1] * (image.ndim - 1 - dim))
    # numpy takes twice as fast as torch, torch mixes twice as fast as numpy
    below, above = np.take(image, mix.first, axis=dim), np.take(image, np.minimum(mix.first + 1, size - 1), axis=dim)
    return torch.from_numpy(below).lerp_(torch.from_numpy(above), share).numpy()
