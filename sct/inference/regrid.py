"""From logits on the preprocessed grid to a label map on the grid of the source file, chunk by chunk.

Legend: Q channels of the logits (classes or regions), S the preprocessed grid (2 or 3 dims), D = len(S), h rows of a
chunk of its first axis, T a block of the source grid, P voxels of a block.
An affine maps voxel indices to scanner coordinates, (4, 4) or (D + 1, D + 1); the first D rows and columns and the
last column are read.

Only borders are interpolated. A source voxel lies in a cell, between two neighbours along each axis. Linear
interpolation is a weighted mean of the cell's 2^D corners; no weight is negative. `Outputs.decisions` is the class with
the largest logit (the first of equal ones), or the set of regions with a positive logit. If all corners have the same
decision, their mean has it too: in every corner l_c > l_k for classes k before c and l_c >= l_k for classes k after c,
so this also holds for the mean. These voxels take the label of a corner. Logits are interpolated for all other voxels,
a few per cent.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.outputs import Outputs
from sct.inference.base import Chunk, rows_of_a_chunk
from sct.inference.sliding import chunks_of

# Headers store affines in float32: grids that differ by less than this (in voxels) count as equal.
GRID_TOLERANCE = 1e-3
# Source voxels that are processed together.
BLOCK_VOXELS = 500_000
# Interpolated logits that are in memory together: 28 MB.
BORDER_LOGITS = 7_000_000
# Value in the map of cells: the decisions of the corners differ.
BORDER = -1

Block = list[tuple[int, int]]


@dataclass(frozen=True)
class Axis:
    """One axis of the logits' grid: the source voxel q lies at weights @ q + shift, in voxels.

    size: voxels along the axis; is_integer: all positions are integers, so no interpolation is needed
    """

    size: int
    weights: np.ndarray
    shift: float
    is_integer: bool

    @property
    def sources(self) -> list[int]:
        """Source axes along which the position changes."""
        return np.flatnonzero(self.weights).tolist()

    @property
    def is_spanned(self) -> bool:
        """Whether a cell has two corners along this axis."""
        return self.size > 1 and not self.is_integer

    def places(self, block: Block) -> np.ndarray:
        """Positions of the voxels of a source block (*T), float64; size 1 along axes that do not change positions."""
        places = np.full([1] * len(block), self.shift)
        for source in self.sources:
            along = self.weights[source] * np.arange(*block[source])
            places = places + along.reshape([-1 if axis == source else 1 for axis in range(len(block))])
        return np.round(places) if self.is_integer else places

    def cells(self, places: np.ndarray) -> np.ndarray:
        """First corners of the cells at `places`, int64; for places outside the grid, of the nearest cell."""
        return np.clip(np.floor(places), 0, self.size - 2 if self.is_spanned else self.size - 1).astype(np.int64)

    def shares(self, places: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Weight of the second corner, float32; outside the grid, the outermost voxel's value is continued."""
        return np.clip(places - cells, 0, 1).astype(np.float32)

    def inside(self, places: np.ndarray) -> np.ndarray:
        """Which places are at most half a voxel outside the grid."""
        return (places >= -0.5 - GRID_TOLERANCE) & (places <= self.size - 0.5 + GRID_TOLERANCE)


def make_axes(
    *, shape: Sequence[int], affine: np.ndarray, source_shape: Sequence[int], source_affine: np.ndarray
) -> list[Axis]:
    """The axes of a grid, from one affine between source and grid: crop, padding, spacing and orientation together."""
    num_dims = len(shape)
    relative = np.linalg.inv(affine) @ source_affine
    axes = []
    for size, weights, shift in zip(shape, relative[:num_dims, :num_dims], relative[:num_dims, -1], strict=True):
        extent = np.asarray(source_shape)
        weights = np.where(np.abs(weights) * extent < GRID_TOLERANCE, 0.0, weights)
        drift = np.abs(weights - np.round(weights)) @ extent + abs(shift - round(shift))
        is_integer = bool(np.abs(np.round(weights)).sum() == 1 and drift < GRID_TOLERANCE)
        if is_integer:
            weights, shift = np.round(weights), round(shift)
        axes.append(Axis(size, weights, float(shift), is_integer))
    return axes


class SourceGrid:
    """Label map `labels` (*source_shape), uint8 (int16 with more than 256 labels), filled from chunks of logits.

    Logits on the grid of `affine` are interpolated linearly, and `outputs` turns them into labels. Source voxels
    more than half a voxel outside the logits' grid stay as they are in `labels`, a map that is there already, or are
    background in a new one. If the grids differ only in axis order, flips and
    shifts by whole voxels, the labels are exactly the labels of the logits.
    """

    def __init__(
        self,
        *,
        outputs: Outputs,
        shape: Sequence[int],
        affine: np.ndarray,
        source_shape: Sequence[int],
        source_affine: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> None:
        self.outputs = outputs
        self.axes = make_axes(shape=shape, affine=affine, source_shape=source_shape, source_affine=source_affine)
        self.box = overlap_box(affine=affine, source_affine=source_affine, shape=shape, source_shape=source_shape)
        dtype = np.uint8 if outputs.label_map.num_values <= 256 else np.int16
        self.labels = np.zeros(tuple(source_shape), dtype=dtype) if labels is None else labels

    @property
    def streams(self) -> bool:
        """Whether rows of the logits are rows of the source along some axis; if not, `add` needs all logits at once."""
        return len(self.axes[0].sources) == 1

    @property
    def memory(self) -> dict[str, int]:
        """Most bytes in addition to the logits, by purpose."""
        block = min(self.labels.size, max(BLOCK_VOXELS, self.labels.size // self.labels.shape[self._blocked]))
        shape = [axis.size for axis in self.axes]
        rows = rows_of_a_chunk(shape, num_channels=self.outputs.num_channels) + 1 if self.streams else shape[0]
        chunk = rows * math.prod(shape[1:])
        # where an axis follows several of the source, its places are numbers of their own for every voxel
        at_place = 40 if all(len(axis.sources) <= 1 for axis in self.axes) else 160
        together = min(block, self._together)
        # for a chunk: decisions and cells; for a block: indices and shares; for voxels at borders: corners and logits
        return {
            "label map": self.labels.nbytes,
            "regridding": chunk * 24 + block * at_place + together * (128 + 8 * self.outputs.num_channels),
        }

    @torch.no_grad()
    def add(self, chunk: Chunk) -> None:
        """Fills in the labels of all source voxels on or between the rows of a chunk."""
        cells, logits = self._cells(chunk.logits), chunk.logits.flatten(1)
        for block in self._blocks(chunk):
            values = self._values(logits, start=chunk.start, cells=cells, block=block)
            target = self.labels[tuple(slice(*bounds) for bounds in block)]
            # of sheared files, a block has voxels outside the grid, where another part of the image may have labels
            outside = [~within for axis in self.axes if not (within := axis.inside(axis.places(block))).all()]
            if outside:
                shown = ~np.logical_or.reduce([np.broadcast_to(mask, target.shape) for mask in outside])
                np.copyto(target, values.cpu().numpy(), where=shown, casting="unsafe")
            else:
                target[...] = values.cpu().numpy()

    def _cells(self, logits: Tensor) -> Tensor:
        """Labels (h, *S[1:]) int16 of the cells that begin at each voxel; `BORDER` if the corners' decisions differ."""
        decisions = self.outputs.decisions(logits)
        labels = self.outputs.labels_of(decisions)
        least = most = decisions
        for dim, axis in enumerate(self.axes):
            length = least.shape[dim] - 1
            if axis.is_spanned and length:
                least = torch.minimum(least.narrow(dim, 0, length), least.narrow(dim, 1, length))
                most = torch.maximum(most.narrow(dim, 0, length), most.narrow(dim, 1, length))
        differ = least != most
        # no cell begins at the last voxel along a spanned axis
        labels[tuple(slice(0, length) for length in differ.shape)].masked_fill_(differ, BORDER)
        return labels

    @property
    def _together(self) -> int:
        """Voxels at borders that are interpolated together."""
        return max(1, BORDER_LOGITS // self.outputs.num_channels)

    @property
    def _blocked(self) -> int:
        """The source axis along which the source is divided into blocks."""
        return self.axes[0].sources[0] if self.streams else 0

    def _blocks(self, chunk: Chunk) -> Iterator[Block]:
        """Blocks of the source grid whose cells begin in a chunk."""
        if any(start >= stop for start, stop in self.box):
            return
        along, axis = self._blocked, self.axes[0]
        first, last = self.box[along]
        if self.streams:
            cells = axis.cells(axis.places(self.box)).ravel()
            end = chunk.stop - 1 if axis.is_spanned else chunk.stop
            rows = np.flatnonzero((cells >= chunk.start) & (cells < end))
            first, last = (first + int(rows[0]), first + int(rows[-1]) + 1) if len(rows) else (0, 0)
        across = math.prod(stop - start for start, stop in self.box) // (self.box[along][1] - self.box[along][0])
        height = max(1, BLOCK_VOXELS // across)
        for start in range(first, last, height):
            bounds = (start, min(start + height, last))
            yield [bounds if source == along else other for source, other in enumerate(self.box)]

    def _values(self, logits: Tensor, *, start: int, cells: Tensor, block: Block) -> Tensor:
        """Label values (*T) int16 of a source block; outside the grid, those of its border.

        logits (Q, V) and cells (h, *S[1:]) begin at row `start`.
        """
        places = [axis.places(block) for axis in self.axes]
        corners = [axis.cells(place) for axis, place in zip(self.axes, places, strict=True)]
        device, steps = cells.device, cells.stride()
        # memory index of the first corners; gathering with int32 is twice as fast as with int64
        index = torch.tensor(-start * steps[0], dtype=torch.int32, device=device)
        for corner, step in zip(corners, steps, strict=True):
            index = index + torch.from_numpy((corner * step).astype(np.int32)).to(device)
        values = cells.view(-1).index_select(0, index.view(-1))
        border = (values == BORDER).nonzero().squeeze(1)
        if len(border):
            shares = {
                step: torch.from_numpy(axis.shares(place, corner)).to(device).expand(index.shape).reshape(-1)
                for axis, place, corner, step in zip(self.axes, places, corners, steps, strict=True)
                if axis.is_spanned
            }
            for part in border.split(self._together):
                own = {step: share[part] for step, share in shares.items()}
                values[part] = self.outputs.labels(interpolate(logits, first=index.view(-1)[part], shares=own))
        return values.view(index.shape)


def interpolate(logits: Tensor, *, first: Tensor, shares: dict[int, Tensor]) -> Tensor:
    """Logits (Q, P) at P places: the weighted mean of the corners of their cells.

    logits (Q, V): all voxels in memory order; first (P) int32: index of the first corner; shares: for each axis, the
    distance in memory to the second corner -> the weight (P) of the second corner.
    """
    corners = list(itertools.product((False, True), repeat=len(shares)))
    if logits.stride(0) == 1:  # a voxel's channels are adjacent in memory: one operation for all corners of a place
        index = torch.empty((len(first), len(corners)), dtype=torch.int32, device=first.device)
        weights = logits.new_empty(index.shape)
        for number, seconds in enumerate(corners):
            index[:, number], weights[:, number] = corner(seconds, first=first, shares=shares)
        return F.embedding_bag(index, logits.t(), per_sample_weights=weights, mode="sum").t()
    sampled = logits.new_zeros((len(logits), len(first)))
    for seconds in corners:
        index, weight = corner(seconds, first=first, shares=shares)
        # channel by channel: all channels at once would first be copied into contiguous memory
        for total, channel in zip(sampled, logits, strict=True):
            total.addcmul_(channel.index_select(0, index), weight)
    return sampled


def corner(seconds: Sequence[bool], *, first: Tensor, shares: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Indices (P) int32 and weights (P) float32 of a corner; `seconds`: whether it is second along each axis."""
    index, weight = first, torch.ones(len(first), device=first.device)
    for is_second, (step, share) in zip(seconds, shares.items(), strict=True):
        index = index + step if is_second else index
        weight = weight * (share if is_second else 1 - share)
    return index, weight


def overlap_box(
    *, affine: np.ndarray, source_affine: np.ndarray, shape: Sequence[int], source_shape: Sequence[int]
) -> Block:
    """Bounds [start, stop) of a box of source voxels that contains all source voxels inside a grid of `shape` (*S)."""
    num_dims = len(shape)
    relative = np.linalg.inv(affine) @ source_affine
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in shape))))
    places = np.linalg.solve(relative[:num_dims, :num_dims], (corners - relative[:num_dims, -1]).T)
    first = np.ceil(places.min(axis=1) - GRID_TOLERANCE).astype(int)
    last = np.floor(places.max(axis=1) + GRID_TOLERANCE).astype(int)
    return [(max(int(a), 0), min(int(b) + 1, size)) for a, b, size in zip(first, last, source_shape, strict=True)]


def to_source_grid(
    logits: Tensor, *, outputs: Outputs, affine: np.ndarray, source_shape: Sequence[int], source_affine: np.ndarray
) -> np.ndarray:
    """Label map (*source_shape) of logits (Q, *S) on the grid of `affine`, see `SourceGrid`."""
    grid = SourceGrid(
        outputs=outputs,
        shape=logits.shape[1:],
        affine=affine,
        source_shape=source_shape,
        source_affine=source_affine,
    )
    for chunk in chunks_of(logits) if grid.streams else [Chunk(0, logits)]:
        grid.add(chunk)
    return grid.labels
