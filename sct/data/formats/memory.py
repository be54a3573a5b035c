"""An image that is an array in memory and no file, read and written as if it were one.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.volumes import Volumes, save_on_grid
from sct.errors import UserError

# how messages call it, in place of a path
NAME = Path("the array")


@dataclass(frozen=True, eq=False)
class InMemory(FileFormat):
    """voxels (C, *S) on `grid`; `own` is the format that the data set's own files have.

    Label maps are written as NIfTI, or as pictures for a data set of pictures.
    """

    voxels: np.ndarray
    grid: Grid
    own: FileFormat
    name = "array"
    suffixes = ()

    @property
    def label_suffix(self) -> str:  # type: ignore[override]
        return self._written_by.label_suffix

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        return self._written_by.label_endings(like=like)

    @property
    def _written_by(self) -> FileFormat:
        is_volume = len(self.grid.shape) == 3 or isinstance(self.own, Volumes)
        return Volumes(len(self.grid.shape)) if is_volume else self.own

    def read_grid(self, path: Path) -> Grid:
        return self.grid

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self.voxels.astype(np.float32), self.grid

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        return (self.voxels if self.voxels.dtype.kind in "iu" else self.voxels.astype(np.float32)), self.grid

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        raise AssertionError("an array to predict has no label")

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        if isinstance(self._written_by, Volumes):
            save_on_grid(path, labels, grid=self.grid)
        else:
            self.own.write_labels(path, labels, like=like)


def in_memory(
    array: np.ndarray,
    *,
    num_channels: int,
    spatial_dims: int,
    files: FileFormat,
    needs_spacing: bool,
    affine: np.ndarray | None = None,
    spacing: tuple[float, ...] | None = None,
) -> InMemory:
    """An array (C, *S), or (*S) of one channel, on the grid of `affine` (4, 4), or of voxels of `spacing`.

    Axes with a spacing alone are taken as they are in most NIfTI files: to the right, to the front, up (RAS+). Raises
    UserError for an array of another number of axes or channels, an affine or spacing of another shape, and where
    neither is given though the network needs to know the size of a voxel.
    """
    if not isinstance(array, np.ndarray) and hasattr(array, "dataobj"):
        raise UserError(
            "This is an image of nibabel: give its file's path, or image.get_fdata() with affine=image.affine."
        )
    array = np.asarray(array)
    if array.dtype.kind not in "iufb":
        raise UserError(f"The array holds {array.dtype}; give real numbers.")
    if num_channels == 1 and array.ndim in (spatial_dims, 3) and not (array.ndim > spatial_dims and len(array) == 1):
        array = array[None]
    expected = f"({num_channels}, {', '.join('XYZ'[:spatial_dims])})"
    if array.ndim < spatial_dims + 1 or array.ndim > 4 or len(array) != num_channels:
        hint = " Channels come first: np.moveaxis(array, -1, 0)." if array.shape[-1:] == (num_channels,) else ""
        raise UserError(f"The array has shape {array.shape}; the network takes {expected}, channels first.{hint}")
    shape = array.shape[1:]
    if affine is not None and spacing is not None:
        raise UserError("affine and spacing both say how large a voxel is; give one of them.")
    if affine is not None:
        affine = np.asarray(affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise UserError(f"affine has shape {affine.shape}; expected (4, 4), from voxels to mm.")
        return InMemory(array, Grid(shape, num_channels, affine), files)
    if spacing is not None:
        if len(spacing) != len(shape) or not all(0 < edge < np.inf for edge in spacing):
            raise UserError(f"spacing={tuple(spacing)}: expected {len(shape)} positive numbers of mm, one an axis.")
        return InMemory(array, Grid(shape, num_channels, np.diag([*spacing, *[1.0] * (4 - len(shape))])), files)
    if needs_spacing:
        raise UserError(
            "The network was trained on images resampled to one size of voxels, so the size of a voxel of the array "
            "must be known: give spacing=(x, y, z) in mm, or affine=(4, 4)."
        )
    return InMemory(array, Grid(shape, num_channels, np.eye(4), unit="voxel"), files)


def oriented_affine(spacing: Sequence[float], orientation: str) -> np.ndarray:
    """Affine (4, 4) of voxels of `spacing` in mm, with axes that lead where `orientation` says, such as RAS or LPS.

    Raises UserError for an orientation that is none, and for a spacing of another number of axes.
    """
    letters = orientation.upper()
    if len(letters) != 3 or not all(set(letters) & set(pair) for pair in ("RL", "AP", "SI")):
        raise UserError(f"orientation={orientation}: give three letters such as RAS, LPS or LAS.")
    if len(spacing) != 3 or not all(0 < edge < np.inf for edge in spacing):
        raise UserError(f"spacing={tuple(spacing)}: expected 3 positive numbers of mm, one an axis.")
    turn = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(letters), (1, 1, 1))
    return turn @ np.diag([*spacing, 1.0])
