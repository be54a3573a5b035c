"""How the files of a data set are read and predictions written: `FileFormat`, and NIfTI.

Letters: C channels, S spatial size of a file (2 or 3 numbers), in its own axis order.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sct.data.cases import Case, Grid
from sct.data.formats.nifti import read_grid, read_voxels, save_label_map
from sct.errors import UserError


class FileFormat(ABC):
    """What a data set publishes about its files; every error names the file and the remedy.

    name: as users know it · suffixes: endings of its image files · label_suffix: ending of written label maps
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    label_suffix: ClassVar[str]

    @property
    def of_one_file(self) -> "FileFormat":
        """What reads and writes a single file: the format itself, unless it makes an image of several files."""
        return self

    def files(self, image: Path) -> list[Path]:
        """All files that an image consists of; `image` itself, the first of them, stands for all in a `Case`."""
        return [image]

    def files_of(self, case: Case) -> list[Path]:
        """All files of a case, the label file last."""
        images = self.files(case.image)
        return images if case.label is None else [*images, case.label]

    def image_of(self, path: Path) -> Path:
        """The path that stands for the image which a file of a folder belongs to."""
        return path

    def remark(self, image: Path) -> str | None:
        """How the file of an image is read, where users may not expect it: a line for the log, without a name."""
        return None

    @abstractmethod
    def read_grid(self, path: Path) -> Grid:
        """Grid of an image from its header."""

    @abstractmethod
    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        """Voxels (C, *S) float32, and their grid."""

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        """As `read_image`, but whole numbers may stay whole, as the file has them."""
        return self.read_image(path)

    @abstractmethod
    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        """Class indices (*S) float32 as they are in the file, and their grid; the check refuses unknown ones."""

    @abstractmethod
    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        """Write class indices (*S) on the grid of the image `like`, whole or not at all."""

    def save_labels(self, stem: Path, labels: np.ndarray, *, like: Path) -> Path:
        """Write class indices (*S) of the image `like` to the returned path, which is `stem` and an ending."""
        path = self.label_path(stem, like=like)
        self.write_labels(path, labels, like=like)
        self.write_beside(path, labels, like=like)
        return path

    def write_beside(self, path: Path, labels: np.ndarray, *, like: Path) -> None:  # noqa: B027
        """Write the same labels in further kinds of file beside the label map `path`; most formats have none."""

    def read_written(self, path: Path) -> np.ndarray:
        """Class indices (*S) of a file that `save_labels` wrote, in the axes of its image."""
        return self.read_label(path)[0]

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        """Endings that `write_labels` knows for a label map of the image `like`, the usual one first."""
        return (self.label_suffix,)

    def label_path(self, stem: Path, *, like: Path) -> Path:
        """Where `save_labels` writes."""
        return stem.with_name(stem.name + self.label_endings(like=like)[0])

    def is_image(self, path: Path) -> bool:
        """Whether a file, or a folder that is one image, is an image to predict."""
        return path.name.lower().endswith(self.suffixes) and not path.name.startswith(".")

    def stem(self, path: Path) -> str:
        """Name of an image file without its suffix."""
        suffix = next((suffix for suffix in self.suffixes if path.name.lower().endswith(suffix)), path.suffix)
        return path.name[: len(path.name) - len(suffix)]


def images_in(folder: Path, *, file_format: FileFormat, recursive: bool) -> Iterator[Path]:
    """The images of a folder; what begins with a dot, such as records of predictions, is none."""
    if not recursive:
        yield from (file for file in sorted(folder.iterdir()) if file_format.is_image(file))
        return
    for place, folders, names in os.walk(folder):
        shown = sorted(name for name in folders if not name.startswith("."))
        # a folder may be one image: the slices of a DICOM series
        images = [name for name in shown if file_format.is_image(Path(place) / name)]
        yield from (Path(place) / name for name in images)
        folders[:] = [name for name in shown if name not in images]
        yield from (file for name in sorted(names) if file_format.is_image(file := Path(place) / name))


@dataclass(frozen=True)
class Nifti(FileFormat):
    """NIfTI images of 2 or 3 axes with an optional last one of channels; label maps keep header and affine."""

    spatial_dims: int
    name = "NIfTI"
    suffixes = (".nii.gz", ".nii")
    label_suffix = ".nii.gz"

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        return self.suffixes

    def read_grid(self, path: Path) -> Grid:
        return read_grid(path, spatial_dims=self.spatial_dims)

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        return read_voxels(path, spatial_dims=self.spatial_dims)

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        return read_voxels(path, spatial_dims=self.spatial_dims, as_stored=True)

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        voxels, grid = read_voxels(path, spatial_dims=self.spatial_dims)
        if grid.num_channels != 1:
            raise UserError(f"{path}: is a label with {grid.num_channels} channels. Store one volume of class values.")
        return voxels[0], grid

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        save_label_map(path, labels, like=like)
