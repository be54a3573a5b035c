"""What the tests of the data write and use; imported by name because pytest puts this folder on the path."""

from pathlib import Path

import nibabel as nib
import numpy as np
from monai.transforms import ScaleIntensityRanged

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat


def save(path: Path, voxels: np.ndarray, *, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def scale() -> ScaleIntensityRanged:
    return ScaleIntensityRanged(keys=["image"], a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True)


class Arrays(FileFormat):
    """Arrays (*S) of one channel as .npy, with no spacing: pictures, or volumes with the slices first."""

    name = "npy"
    suffixes = (".npy",)
    label_suffix = ".npy"

    def read_grid(self, path: Path) -> Grid:
        return Grid(np.load(path, mmap_mode="r").shape, 1, np.eye(4), unit="voxel")

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        return np.load(path)[None].astype(np.float32), self.read_grid(path)

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        return np.load(path).astype(np.float32), self.read_grid(path)

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, labels)
