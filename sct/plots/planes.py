"""Planes of an image and its label maps for figures: choice of the slice, its orientation, and outlines over it.

Letters: C channels, S spatial size (2 or 3 dims), H and W rows and columns of the plane.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sct.evaluation.pictures import busiest_slice, overlay, shown_slice
from sct.plots.style import INK, TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # plane -> its normal, an axis of a volume in RAS order


@dataclass(frozen=True)
class View:
    """The shown plane of an image, and its position in arrays over the same space.

    picture (H, W, 3) uint8 · aspect: height / width of its pixels · depth: number of slices along `axis`, 1 in 2-D ·
    index: the shown slice · slices_first: slices are along the first axis and are shown without turning
    """

    picture: np.ndarray
    aspect: float
    index: int = 0
    depth: int = 1
    axis: int = 2
    slices_first: bool = False

    @property
    def note(self) -> str:
        """The number of the slice as text, empty in 2-D."""
        return f"slice {self.index + 1} of {self.depth}" if self.depth > 1 else ""

    @property
    def height(self) -> float:
        """Height / width of the drawn picture."""
        return self.picture.shape[0] * self.aspect / self.picture.shape[1]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The same plane of an array of voxels (*S) or of patches (*grid)."""
        if array.ndim == 2:
            return array
        index = math.floor((self.index + 0.5) * array.shape[self.axis] / self.depth)
        return array[index] if self.slices_first else shown_slice(np.moveaxis(array, self.axis, -1), index)


def view(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    spacing: Sequence[float],
    index: int | None = None,
    plane: str = "axial",
    slices_first: bool = False,
) -> View:
    """The plane of image (C, *S) with most labelled voxels (labels (*S)), or the plane at `index`.

    Volumes are in RAS order, as in `sct.evaluation.pictures`. In all three planes the patient's right and front are on
    the left, and the head is at the top.
    """
    if labels.ndim == 2:
        return View(overlay(image), spacing[0] / spacing[1])
    axis = 0 if slices_first else PLANES[plane]
    slices = np.moveaxis(labels, axis, -1)
    index = busiest_slice(slices) if index is None else index
    first, second = np.delete(spacing, axis).tolist()
    if slices_first:
        return View(overlay(image[:, index]), first / second, index, len(labels), axis, slices_first=True)
    # a slice is turned: its first axis becomes the columns
    picture = overlay(np.moveaxis(image, axis + 1, -1), index=index)
    return View(picture, second / first, index, slices.shape[-1], axis)


def show(axes: "Axes", picture: np.ndarray, *, aspect: float) -> None:
    """Draws a picture (H, W, 3) in a frame without ticks, with pixel (0, 0) centred at the origin."""
    axes.imshow(picture, aspect=aspect, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])


def outline(axes: "Axes", mask: np.ndarray, *, color: str | Sequence[float] = TRUTH) -> None:
    """Draws the border of a mask (H, W) in `color` with a dark rim, so that it is visible on any image."""
    if not mask.any():
        return
    closed = np.pad(mask.astype(float), 1)  # so that the border is also drawn at the edge of the picture
    columns, rows = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    for width, ink in ((2.0, INK), (1.0, color)):
        axes.contour(columns, rows, closed, levels=[0.5], colors=[ink], linewidths=width)
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def edges(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a picture (H, W) in its pixels: the extent for patches that are drawn over it."""
    return (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)


def enlarge(patches: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The values of patches (h, w) for each pixel of a picture (H, W)."""
    rows, columns = (np.arange(size) * count // size for size, count in zip(shape[:2], patches.shape, strict=True))
    return patches[np.ix_(rows, columns)]


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) in grey: colours would mix with the colours of values drawn over it."""
    return np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).round().astype(np.uint8)


def faded(picture: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) with pale grey patches where `kept` (h, w) is False."""
    pale = 0.25 * grey(picture).astype(float) + 0.75 * 255
    return np.where(enlarge(kept, picture.shape)[..., None], picture, pale.round()).astype(np.uint8)
