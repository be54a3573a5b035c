"""The files of Synapse as TransUNet prepares it: slices as .npz, volumes as .npy.h5.

Legend: N slices, H rows, W columns; a slice is (H, W), a volume (N, H, W), intensities lie in [0, 1].
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.geometry import check_affine
from sct.data.sets.synapse_arrays import Arrays, Slice, Volume, h5py
from sct.errors import UserError
from sct.runtime.files import atomic

# what zipfile, numpy and h5py raise of damaged files
_UNREADABLE = (
    *(OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError, SyntaxError),
    *(NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class SynapseFiles(FileFormat):
    """Arrays `image` and `label` of a slice or a volume, both in one file.

    `spacing`, an array of the npz or an attribute of the h5, is the mm between slices, rows and columns. TransUNet's
    own files have none: distances are then in voxels.
    Label maps are written as NIfTI with the axes turned round, (W, H) or (W, H, N), under an affine with the
    spacing (1, and the unit unknown, where there is none) that says what `sct.data.sets.synapse_conversion` made of the
    axes: columns run to the left of the patient, rows to the back, slices to the head. The origin is not kept.
    """

    name = "Synapse npz or h5"
    suffixes = (".npy.h5", ".h5", ".npz")
    label_suffix = ".nii.gz"

    def read_grid(self, path: Path) -> Grid:
        with _opened(path) as arrays:
            return _grid(arrays, "image", path=path)

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        voxels, grid = _read(path, "image")
        return voxels[None], grid

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        return _read(path, "label")

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        grid = self.read_grid(like)
        columns, rows, *slices = grid.spacing[::-1]
        affine = np.diag([-columns, -rows, *(slices or [1.0]), 1.0])
        image = nib.Nifti1Image(np.ascontiguousarray(labels.T), affine)
        image.header.set_xyzt_units("mm" if grid.unit == "mm" else "unknown")
        with atomic(path) as temporary:
            nib.save(image, temporary)

    def read_written(self, path: Path) -> np.ndarray:
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Image)
        return np.asarray(image.dataobj).T


def write_slice(path: Path, *, image: np.ndarray, label: np.ndarray, spacing: np.ndarray) -> None:
    """Write a slice: image and label (H, W), spacing (3,) in mm, slices first as in the volume it is of."""
    np.savez_compressed(path, image=image, label=label, spacing=spacing)


def write_volume(path: Path, *, image: np.ndarray, label: np.ndarray, spacing: np.ndarray) -> None:
    """Write a volume: image and label (N, H, W), spacing (3,) in mm, slices first."""
    with h5py().File(path, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
        file.attrs["spacing"] = spacing


@contextmanager
def _opened(path: Path) -> Iterator[Arrays]:
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                yield Slice(archive, path=path)
        else:
            with h5py().File(path, "r") as file:
                yield Volume(file, path=path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: the file does not exist. Restore it, or take it out of the list.") from None
    except _UNREADABLE as error:
        kind = "npz" if path.suffix.lower() == ".npz" else "h5"
        raise UserError(
            f"{path}: cannot be read as {kind} ({type(error).__name__}: {error}). It is empty, truncated or of another "
            "format: copy or prepare it again."
        ) from error


def _read(path: Path, name: str) -> tuple[np.ndarray, Grid]:
    with _opened(path) as arrays:
        grid = _grid(arrays, name, path=path)
        return arrays.voxels(name), grid


def _grid(arrays: Arrays, name: str, *, path: Path) -> Grid:
    found = arrays.names()
    if name not in found:
        raise UserError(
            f"{path}: has no array `{name}` (it has {', '.join(sorted(found)) or 'none'}); expected `image` and "
            "`label`. Prepare the file again."
        )
    shape = arrays.shape(name)
    if len(shape) != len(arrays.axes) or 0 in shape:
        raise UserError(
            f"{path}: `{name}` has shape {shape}; expected {len(arrays.axes)} axes ({', '.join(arrays.axes)}). "
            "Prepare the file again."
        )
    if arrays.spacing is None:
        return Grid(shape, 1, np.eye(4), unit="voxel")
    spacing = np.asarray(arrays.spacing, dtype=np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise UserError(
            f"{path}: `spacing` is {spacing.tolist()}; expected 3 positive numbers of mm, between slices, rows and "
            "columns. Correct it, or remove it to measure in voxels."
        )
    affine = np.eye(4)
    own = range(len(shape))
    affine[own, own] = spacing[-len(shape) :]
    check_affine(affine, path=path, source="spacing")
    return Grid(shape, 1, affine)
