"""Distances between the surfaces of two masks: HD95 and the normalised surface Dice (NSD) from one pass.

Letters: S size of the box round both masks (2 or 3 dims), D its number, N voxels of a surface, M neighbours.

The surface of a mask is the mask without its erosion by the 4- or 6-neighbourhood: voxels with a face on the outside.
What lies beyond the border of the image is outside. Distances are between centres of voxels, and every voxel of a
surface counts as one. This is the definition of MONAI, for HD95 and for NSD without subvoxels.

A tree over the points of a surface answers any distance. Most voxels of a good prediction are a few voxels away from
the true surface: these look their neighbours up in the other mask, the nearest first. Each score needs only part of the
distances: HD95 the smallest 95 %, NSD those up to the tolerance. So the far voxels are often never looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
from scipy.spatial import cKDTree

Box = tuple[slice, ...]

PERCENTILE = 95
# spacings come from headers in float32: a distance may be so much longer than the tolerance and is still within it
ROUNDING = 1e-6
# neighbours that a voxel of a surface looks up before a tree is made
NUM_NEIGHBOURS = 400
# lookups for every voxel of a surface, on average, after which a tree takes less time
LOOKUPS = 150
# a tree over fewer points takes less time than the lookups
SMALL = 3000
# neighbours at the same distance but for rounding
SAME = 1e-9
# voxels along the edge of a cell, one voxel of which is asked first
CELL = 3


def surface_scores(
    pred: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and NSD of two masks (*S), none of them empty, in the unit of `spacing` and `tolerance`.

    HD95 is the larger of the two directions' 95th percentiles. NSD is the share of the voxels of both surfaces that are
    no farther from the other surface than the tolerance.
    """
    reach = tolerance * (1 + ROUNDING)
    distances = surface_distances(pred, truth, spacing=tuple(map(float, spacing)), reach=reach)
    within = sum(int(np.count_nonzero(found <= reach)) for found in distances)
    hd95 = max(float(np.percentile(found, PERCENTILE)) for found in distances)
    return hd95, within / sum(map(len, distances))


def surface_distances(
    pred: np.ndarray, truth: np.ndarray, *, spacing: tuple[float, ...], reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (N) from the surface of each of two masks (*S) to the other's; inf where the scores need none.

    The smallest 95 % and all up to `reach` are exact.
    """
    near = neighbours(spacing)
    first, second = (Surface(mask, near=near, spacing=spacing) for mask in (pred, truth))
    return first.distances_to(second, reach=reach), second.distances_to(first, reach=reach)


@dataclass(frozen=True)
class Neighbours:
    """Steps (M, D) to the nearest voxels of a grid, the nearest first; `ends`: where steps of one length end.

    lengths: of the steps before every end; margin: voxels that the steps go at most along every axis
    """

    steps: np.ndarray
    ends: list[int]
    lengths: list[float]
    margin: tuple[int, ...]


@lru_cache(maxsize=64)
def neighbours(spacing: tuple[float, ...]) -> Neighbours:
    """About `NUM_NEIGHBOURS` of a voxel of this spacing, itself included."""
    num_dims = len(spacing)
    ball = math.pi ** (num_dims / 2) / math.gamma(num_dims / 2 + 1)
    radius = (NUM_NEIGHBOURS * math.prod(spacing) / ball) ** (1 / num_dims)
    # along an axis of tiny voxels there are that many without going as far
    most = [min(max(1, int(radius / size)), NUM_NEIGHBOURS) for size in spacing]
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, num_dims)
    lengths = np.linalg.norm(steps * np.asarray(spacing), axis=1)
    # outside of the box of steps there may be a neighbour this near: all nearer ones are in it
    outside = min((n + 1) * size for n, size in zip(most, spacing, strict=True))
    inside = lengths < outside * (1 - SAME)
    order = np.argsort(lengths[inside], kind="stable")
    steps, lengths = steps[inside][order], lengths[inside][order]
    ends = [*(np.flatnonzero(np.diff(lengths) > SAME * lengths[1:]) + 1).tolist(), len(steps)]
    ends = [end for end in ends if end <= NUM_NEIGHBOURS]
    steps = steps[: ends[-1]]
    margin = tuple(np.maximum(np.abs(steps).max(axis=0), 1).tolist())
    return Neighbours(steps, ends, [float(lengths[end - 1]) for end in ends], margin)


class Surface:
    """The surface of a mask (*S): where its voxels are, and a padded map of them in which neighbours are looked up.

    flat: the map in memory order; index (N): of the voxels in it; strides: its steps along every axis
    """

    def __init__(self, mask: np.ndarray, *, near: Neighbours, spacing: tuple[float, ...]) -> None:
        self.near, self.spacing = near, spacing
        padded = np.pad(mask, [(n, n) for n in near.margin])
        self.strides = [math.prod(padded.shape[axis + 1 :]) for axis in range(padded.ndim)]
        inside = padded.ravel()
        # the padding keeps rows apart: what is shifted over the end of a row is outside
        inner = slice(self.strides[0], inside.size - self.strides[0])
        core = inside[inner].copy()
        for stride in self.strides:
            for step in (-stride, stride):
                core &= inside[inner.start + step : inner.stop + step]
        self.flat = inside.copy()
        self.flat[inner] ^= core
        self.index = np.flatnonzero(self.flat)
        places = np.unravel_index(self.index, padded.shape)
        self.places = [place - n for place, n in zip(places, near.margin, strict=True)]

    def points(self) -> np.ndarray:
        """Places (N, D) of the voxels in the unit of the spacing."""
        return np.stack(self.places, axis=1) * np.asarray(self.spacing)

    def distances_to(self, other: "Surface", *, reach: float) -> np.ndarray:
        """Distances (N) to the nearest voxel of another surface, as `surface_distances` gives them."""
        distances = np.full(len(self.index), math.inf)
        # the ranks, counted from 0, that a percentile is interpolated from
        low = int(PERCENTILE / 100 * (len(distances) - 1))
        ranks = (low, min(low + 1, len(distances) - 1))
        left = np.arange(len(distances))
        if len(self.index) + len(other.index) > SMALL:
            left = self._look_up(other, distances=distances, reach=reach, needed=ranks[1] + 1)
        if len(left):
            self._ask_tree(other, distances=distances, left=left, reach=reach, ranks=ranks)
        return distances

    def _look_up(self, other: "Surface", *, distances: np.ndarray, reach: float, needed: int) -> np.ndarray:
        """Fills in the distances of voxels with a near neighbour in `other`; returns the voxels to ask a tree for."""
        left, total = np.arange(len(distances)), len(distances)
        offsets = self.near.steps @ np.asarray(self.strides)
        lowest = int(offsets.min())
        lookups, start = 0, 0
        for end, length in zip(self.near.ends, self.near.lengths, strict=True):
            if total - len(left) >= needed and length > reach:
                return left[:0]
            if lookups > LOOKUPS * total:
                break
            index = self.index[left] + lowest
            best = np.full(len(left), math.inf)
            for step, offset in zip(self.near.steps[start:end], offsets[start:end], strict=True):
                # no index is outside: the map is padded by as much as the steps go
                hits = np.flatnonzero(other.flat[offset - lowest :].take(index))
                if len(hits):
                    best[hits] = np.minimum(best[hits], self._squared(left[hits], step=step))
            is_found = best < math.inf
            distances[left[is_found]] = np.sqrt(best[is_found])
            lookups += len(left) * (end - start)
            left, start = left[~is_found], end
        return left

    def _ask_tree(
        self, other: "Surface", *, distances: np.ndarray, left: np.ndarray, reach: float, ranks: tuple[int, int]
    ) -> None:
        """Fills in the distances of the voxels `left`: exact where the rank or being within reach depends on it.

        The distances of two voxels differ by no more than the way between them. So those of one voxel a cell tell
        which of the others matter.
        """
        # cut in the middle and not at the median: sooner made, and far voxels are sooner answered
        tree = cKDTree(other.points(), balanced_tree=False, compact_nodes=False)
        points = self.points()[left]
        side = CELL * min(self.spacing)
        cell = np.zeros(len(left), dtype=np.int64)
        for place, size, stride in zip(self.places, self.spacing, self.strides, strict=True):
            cell += place[left] // max(1, round(side / size)) * stride
        _, leaders, group = np.unique(cell, return_index=True, return_inverse=True)
        known, _ = tree.query(points[leaders])
        way = np.linalg.norm(points - points[leaders][group], axis=1)
        way += SAME * (way + known[group])
        bounds = {}
        for name, values in (("lower", known[group] - way), ("upper", known[group] + way)):
            bounds[name] = distances.copy()
            bounds[name][left] = values
        least = np.partition(bounds["lower"], ranks[0])[ranks[0]]
        most = np.partition(bounds["upper"], ranks[1])[ranks[1]]
        lower, upper = bounds["lower"][left], bounds["upper"][left]
        is_open = (lower <= most) & (upper >= least) | (lower <= reach) & (upper >= reach)
        distances[left] = upper
        distances[left[is_open]], _ = tree.query(points[is_open])

    def _squared(self, voxels: np.ndarray, *, step: np.ndarray) -> np.ndarray:
        """Squared distances of voxels to those a step away, with the rounding of a tree over `points`."""
        parts = []
        for place, by, size in zip(self.places, step, self.spacing, strict=True):
            along = place[voxels]
            parts.append((along * size - (along + by) * size) ** 2)
        return reduce(np.add, parts)


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box round a mask (*S), None where it is empty."""
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        # files are read in this order: the mask is walked through as it lies in memory
        turned = bounding_box(mask.T)
        return None if turned is None else turned[::-1]
    outer = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
    if not len(outer):
        return None
    first = slice(int(outer[0]), int(outer[-1]) + 1)
    if mask.ndim == 1:
        return (first,)
    rest = bounding_box(np.asarray(mask[first].any(axis=0)))
    assert rest is not None
    return (first, *rest)


def join(first: Box, second: Box) -> Box:
    """The smallest box round two boxes."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
