"""What a plan needs to know about a data set: sizes, intensities below the labels, names.

Letters: M cases, D axes of the network's window (2 or 3), C channels, V voxels with a label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sct.data.cases import Grid
from sct.data.formats.nifti import turned
from sct.data.formats.pictures import Pictures
from sct.data.module import SegmentationData
from sct.data.survey import CaseFacts, facts_of, read_case
from sct.planning.window import PATCH_SIZE, near_cube

# voxels of a case that the statistics of the foreground are made of, evenly spread, so that all cases count the same
SAMPLED = 10_000


@dataclass(frozen=True)
class Foreground:
    """Intensities of all voxels with a label in all training cases, of one channel."""

    low: float  # the percentile 0.5
    high: float  # the percentile 99.5
    mean: float
    std: float


@dataclass(frozen=True)
class SetFacts:
    """A data set as the rules of the plan see it; what is measured is measured on the training cases.

    shapes, spacings (M, D): along the axes of the network (RAS in 3-D), in voxels and in `unit`
    channels: names of the channels, empty where the data set has none
    classes: typical number of voxels of every class where it is present, by name; 0: never present
    by_name: the data set normalises each channel by its name, unless the config says how
    foreground: of every channel · lowest: typical darkest intensity (percentile 0.5) of the first channel
    num_cached: cases that a training keeps prepared
    zeros: typical share of voxels that are 0 in every channel · patches: mean share of patches with any foreground
    """

    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    unit: str
    num_channels: int
    channels: tuple[str, ...]
    classes: dict[str, float]
    overlapping: bool
    pictures: bool
    by_name: bool
    foreground: tuple[Foreground, ...]
    lowest: float
    zeros: float
    patches: float
    num_cached: int

    @property
    def num_cases(self) -> int:
        return len(self.shapes)

    @property
    def spatial_dims(self) -> int:
        return len(self.shapes[0])

    @property
    def coloured(self) -> bool:
        """Whether channels differ: of a grey picture that is read as RGB they don't."""
        return len(set(self.foreground)) > 1

    @property
    def smallest_class(self) -> float:
        """Typical number of voxels of the smallest class; 0 where no case has any."""
        return min((size for size in self.classes.values() if size), default=0.0)


def collect(data: SegmentationData) -> tuple[SetFacts, list[CaseFacts]]:
    """Reads the training cases."""
    facts, samples, zeros, grids = [], [], [], []
    for case in data.cases("train"):
        image, grid, label = read_case(case, data=data)
        shape, spacing = axes_of_network(grid, axes=data.axes, num_dims=data.spatial_dims)
        patch = near_cube(PATCH_SIZE, spacing=spacing)
        facts.append(facts_of(case, image, grid, label, split="train", data=data, patch_size=patch))
        samples.append(spread(image[:, label > 0] if (label > 0).any() else image.reshape(len(image), -1)))
        zeros.append(float((image == 0).all(axis=0).mean()))
        grids.append((shape, spacing))
    pooled = np.concatenate(samples, axis=1)
    found = data.found()
    return SetFacts(
        shapes=tuple(shape for shape, _ in grids),
        spacings=tuple(spacing for _, spacing in grids),
        unit=facts[0].unit,
        num_channels=data.num_channels,
        channels=tuple(found.get("channels", ())),
        classes=typical_sizes(facts),
        overlapping=data.outputs.overlapping,
        pictures=isinstance(data.format, Pictures),
        by_name=data.intensity is None,
        foreground=tuple(statistics(channel) for channel in pooled),
        lowest=float(np.median([case.intensities[0][0] for case in facts])),
        zeros=float(np.median(zeros)),
        patches=float(np.mean([case.patches for case in facts])),
        num_cached=len({*data.cases("train"), *data.cases("val")}),
    ), facts


def spread(values: np.ndarray) -> np.ndarray:
    """At most `SAMPLED` of the values (C, V), evenly spread."""
    return values[:, :: max(1, -(-values.shape[1] // SAMPLED))]


def statistics(values: np.ndarray) -> Foreground:
    """Of the intensities (V,) of one channel."""
    low, high = np.percentile(values, (0.5, 99.5))
    inside = np.clip(values, low, high).astype(np.float64)
    return Foreground(float(low), float(high), float(inside.mean()), float(inside.std()))


def axes_of_network(grid: Grid, *, axes: str | None, num_dims: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing of a file along the `num_dims` axes of a network's window, a turned volume or a slice."""
    shape, spacing = grid.shape, grid.spacing
    if axes is not None:
        view, affine = turned(np.empty((1, *shape), dtype=np.bool_), affine=grid.affine, axes=axes)
        shape, spacing = view.shape[1:], np.linalg.norm(affine[:3, :3], axis=0)
    return shape[-num_dims:], rounded(spacing[-num_dims:])


def rounded(spacing: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(size), 4) for size in spacing)


def typical_sizes(facts: Sequence[CaseFacts]) -> dict[str, float]:
    """Voxels of every class, the median of the cases that have it; 0 where none has."""
    sizes = {}
    for name in facts[0].volumes:
        voxels = [case.volumes[name] / case.voxel for case in facts if case.volumes[name]]
        sizes[name] = float(np.median(voxels)) if voxels else 0.0
    return sizes
