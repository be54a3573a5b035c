"""The files of Synapse as TransUNet prepares it: slices as .npz, volumes as .npy.h5.

Legend: N slices, H rows, W columns; a slice is (H, W), a volume (N, H, W), intensities lie in [0, 1].
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.errors import UserError
from sct.runtime.extras import install_command
from sct.runtime.files import atomic

_UNREADABLE = (OSError, EOFError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


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
    with _h5py().File(path, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
        file.attrs["spacing"] = spacing


class _Arrays(Protocol):
    """The arrays of an open file. axes: what each must have · spacing: None where the file has none."""

    axes: tuple[str, ...]
    spacing: Any

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def voxels(self, name: str) -> np.ndarray: ...


class _Slice:
    axes: tuple[str, ...] = ("rows", "columns")

    def __init__(self, file: NpzFile) -> None:
        self.file = file
        self.spacing = file.get("spacing")

    def names(self) -> list[str]:
        return list(self.file)

    def shape(self, name: str) -> tuple[int, ...]:
        # The header alone: NpzFile would unpack the whole array.
        assert self.file.zip is not None
        with self.file.zip.open(f"{name}.npy") as array:
            npy.read_magic(array)
            return npy.read_array_header_1_0(array)[0]

    def voxels(self, name: str) -> np.ndarray:
        return np.asarray(self.file[name], dtype=np.float32)


class _Volume:
    axes: tuple[str, ...] = ("slices", "rows", "columns")

    def __init__(self, file: Any) -> None:
        self.file = file
        self.spacing = file.attrs.get("spacing")

    def names(self) -> list[str]:
        return list(self.file)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file[name].shape

    def voxels(self, name: str) -> np.ndarray:
        return np.asarray(self.file[name], dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[_Arrays]:
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path) as file:
                yield _Slice(file)
        else:
            with _h5py().File(path, "r") as file:
                yield _Volume(file)
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


def _grid(arrays: _Arrays, name: str, *, path: Path) -> Grid:
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
    return Grid(shape, 1, affine)


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "Volumes of Synapse (.h5) need the package h5py, which is not installed. Install it with: "
            + install_command("synapse")
        ) from error
    return h5py
