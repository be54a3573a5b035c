"""A DICOM series as one image: a folder, or a zip file, of its slices (extra `itk`).

Letters: S spatial size, columns, rows, slices. Label maps of a series are written in another kind of file, on its grid.
"""

import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.dicom_series import (
    IMAGE_IO,
    TILT,
    Series,
    arrange,
    choose_series,
    is_slice,
    read_slices,
)
from sct.data.formats.geometry import check_affine
from sct.data.formats.itk import readable, simpleitk, to_world
from sct.data.formats.nifti import spatial_shape
from sct.errors import UserError

# RuntimeError is how zipfile refuses what is encrypted or packed in a way that it does not know; it does not expect
# names without a letter, numbers that are no dates, and places outside of the file
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, IndexError, ValueError, struct.error)


@dataclass(frozen=True)
class Dicom(FileFormat):
    """Series with unordered files, any direction and a tilted gantry; slopes and intercepts of the slices are applied.

    uid: the series to read where there are several; None takes the only one
    A tilted series has an affine whose axes are not at right angles, so that every voxel keeps its place.
    """

    spatial_dims: int
    uid: str | None = None
    name = "DICOM"
    suffixes = (".zip", ".dcm")
    label_suffix = ".nii.gz"

    def is_image(self, path: Path) -> bool:
        if not path.is_dir():
            return super().is_image(path)
        return not path.name.startswith(".") and any(map(is_slice, files_in(path)))

    def stem(self, path: Path) -> str:
        # a folder's name may have dots
        return super().stem(path) if path.suffix.lower() in self.suffixes and not path.is_dir() else path.name

    def files(self, image: Path) -> list[Path]:
        return files_in(image) if image.is_dir() else [image]

    def remark(self, image: Path) -> str | None:
        with self.opened(image) as series:
            if series.tilt <= TILT:
                return None
        return "the slices of the DICOM series are tilted (gantry tilt), and voxels keep their places"

    def read_grid(self, path: Path) -> Grid:
        with self.opened(path) as series:
            return self._grid(series, path)

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        with self.opened(path) as series:
            grid = self._grid(series, path)
            voxels = np.empty(series.shape[::-1], dtype=np.float32)
            package = simpleitk(path)
            for number, file in enumerate(series.paths):
                with readable(file, kind="DICOM"):
                    # every slice has a slope of its own: read one by one, and as real numbers
                    image = package.ReadImage(str(file), package.sitkFloat32, IMAGE_IO)
                    voxels[number] = package.GetArrayViewFromImage(image)
        return voxels.T.reshape(1, *grid.shape), grid

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        raise UserError(
            f"{path}: labels are not read from DICOM. Convert them to NIfTI, NRRD or MHA on the image's grid."
        )

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        raise AssertionError("labels of a series are written in another kind of file")

    @contextmanager
    def opened(self, path: Path) -> Iterator[Series]:
        """The series, whose files are there as long as the block lasts: a zip file is unpacked."""
        if not path.exists():
            raise UserError(f"{path}: the file does not exist. Restore it or take the case out.")
        if path.suffix.lower() == ".dcm" and path.is_file():
            raise UserError(
                f"{path}: is one file of a DICOM series. Give the folder, or a zip file, of the whole series."
            )
        with unpacked(path) if path.is_file() else _as_it_is(path) as files:
            uid, slices = choose_series(read_slices(files), uid=self.uid, place=path)
            yield arrange(slices, uid=uid, place=path)

    def _grid(self, series: Series, path: Path) -> Grid:
        shape, num_channels = spatial_shape(series.shape, path=path, spatial_dims=self.spatial_dims)
        if num_channels != 1:
            raise UserError(
                f"{path}: is a series of {num_channels} slices, but a {self.spatial_dims}-D image is expected. Give "
                "data.roi_size the right number of axes, or a series of one slice."
            )
        check_affine(series.affine, path=path, source="position, orientation and spacing of its slices")
        return Grid(shape, 1, to_world(series.affine))


def files_in(folder: Path) -> list[Path]:
    """The files that lie directly in a folder, without hidden ones, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


@contextmanager
def _as_it_is(folder: Path) -> Iterator[list[Path]]:
    yield files_in(folder)


@contextmanager
def unpacked(path: Path) -> Iterator[list[Path]]:
    """The files of a zip file, in temporary folders under numbers in place of their own, which may lead anywhere."""
    with tempfile.TemporaryDirectory() as place:
        files = []
        try:
            with zipfile.ZipFile(path) as archive:
                for number, member in enumerate(archive.infolist()):
                    name = PurePosixPath(member.filename.replace("\\", "/")).name
                    if not member.is_dir() and not name.startswith("."):
                        files.append(Path(place) / str(number) / name[-80:])
                        files[-1].parent.mkdir()
                        files[-1].write_bytes(archive.read(member))
        except _BAD_ZIP as error:
            raise UserError(
                f"{path}: cannot be unpacked ({type(error).__name__}: {error}). It is empty, truncated, damaged, "
                "locked by a password or no zip file: copy or download it again."
            ) from error
        try:
            yield files
        except UserError as error:
            # the place of the unpacked files says nothing to the user
            raise UserError(re.sub(rf"{re.escape(place)}/\d+/", f"{path}: ", str(error))) from error
