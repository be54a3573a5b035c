"""NRRD and MHA files, read here and written by SimpleITK (extra `itk`).

Letters: C channels, S spatial size (2 or 3 numbers), in the file's own axis order. ITK's world runs to the left and the
back of the patient (LPS), a `Grid`'s to the right and the front (RAS): two rows of the affine change sign.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from sct.data.cases import Grid
from sct.data.formats import gzipped
from sct.data.formats.base import FileFormat
from sct.data.formats.geometry import check_affine
from sct.data.formats.mha_header import read_mha
from sct.data.formats.nifti import spatial_shape
from sct.data.formats.nrrd_header import read_nrrd
from sct.data.formats.stored import Stored
from sct.errors import UserError
from sct.runtime.extras import install_command
from sct.runtime.files import atomic

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
INSTALL = install_command("itk")
UNREADABLE: tuple[type[Exception], ...] = (
    *gzipped.ERRORS,
    *(RuntimeError, ValueError, OverflowError, MemoryError),
)
# what may lie beside a header that has its voxels in another file
RAW_ENDINGS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")


def to_world(affine: np.ndarray) -> np.ndarray:
    """An affine (4, 4) to LPS as one to RAS, in single precision, which a NIfTI file of the image would have.

    Resampling then computes the same of both: it places the new grid by the last digits of axes that are oblique.
    """
    return (LPS_TO_RAS @ affine).astype(np.float32).astype(np.float64)


def simpleitk(path: Path) -> ModuleType:
    """The package, or UserError that says how to install it for the file `path`."""
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError(
            f"{path}: DICOM, and label maps as NRRD or MHA, need the package SimpleITK, which is not installed. "
            f"Install it with: {INSTALL}"
        ) from error
    # what it warns of is told in one message of our own, or is no fault
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    return SimpleITK


@contextmanager
def readable(path: Path, *, kind: str) -> Iterator[None]:
    """What libraries raise of a damaged file becomes one message that names the file."""
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        if not path.exists():
            raise UserError(f"{path}: the file does not exist. Restore it or take the case out.") from None
        reason = " ".join(str(error).rpartition("ERROR: ")[2].split())
        raise UserError(
            f"{path}: cannot be read as {kind} ({reason}). It is empty, truncated, damaged or of another format: copy "
            "or download it again."
        ) from error


@dataclass(frozen=True)
class Itk(FileFormat):
    """One of ITK's own kinds of file: 2 or 3 axes; channels are components of a voxel, or a last axis.

    name: of the kind · label_suffix: ending of its label maps · header: what reads its header
    sizes_field: name of the field of the sizes
    The header is read here and not by ITK, which crashes at some damaged ones and compares no checksums.
    """

    spatial_dims: int
    name: str  # type: ignore[misc]
    suffixes: tuple[str, ...]  # type: ignore[misc]
    label_suffix: str  # type: ignore[misc]
    header: Callable[[Path], Stored] = field(repr=False)
    sizes_field: str

    def files(self, image: Path) -> list[Path]:
        if image.suffix.lower() == self.label_suffix:
            return [image]
        beside = [image.with_name(self.stem(image) + ending) for ending in RAW_ENDINGS]
        return [image, *(path for path in beside if path.exists())]

    def read_grid(self, path: Path) -> Grid:
        with readable(path, kind=self.name):
            return self._opened(path)[1]

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        voxels, grid = self.read_stored(path)
        return voxels.astype(np.float32, copy=False), grid

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        with readable(path, kind=self.name):
            stored, grid = self._opened(path)
            voxels = stored.read(path, field=self.sizes_field)
        if stored.components is not None:
            voxels = np.moveaxis(voxels, stored.components, -1)
        voxels = voxels.reshape(*grid.shape, grid.num_channels)
        native = voxels.dtype.newbyteorder("=") if voxels.dtype.kind in "iu" else np.dtype(np.float32)
        return np.moveaxis(voxels.astype(native, copy=False), -1, 0), grid

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        voxels, grid = self.read_image(path)
        if grid.num_channels != 1:
            raise UserError(f"{path}: is a label with {grid.num_channels} channels. Store one volume of class values.")
        return voxels[0], grid

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        save_itk(path, labels, grid=self.read_grid(like))

    def _opened(self, path: Path) -> tuple[Stored, Grid]:
        """Where the voxels are, and their grid, once every claim of the header is checked."""
        stored = self.header(path)
        shape, num_channels = spatial_shape(stored.shape, path=path, spatial_dims=self.spatial_dims)
        stored.check_size(path, field=self.sizes_field)
        check_affine(stored.affine, path=path, source="spacing, directions and origin")
        return stored, Grid(shape, num_channels, to_world(stored.affine))


def nrrd(spatial_dims: int) -> Itk:
    return Itk(spatial_dims, "NRRD", (".nrrd", ".nhdr"), ".nrrd", read_nrrd, "sizes")


def mha(spatial_dims: int) -> Itk:
    return Itk(spatial_dims, "MHA", (".mha", ".mhd"), ".mha", read_mha, "DimSize")


def save_itk(path: Path, labels: np.ndarray, *, grid: Grid) -> None:
    """Write labels (*S) on a grid, packed, whole or not at all; a picture becomes a volume of one slice."""
    package = simpleitk(path)
    affine = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = package.GetImageFromArray(np.ascontiguousarray(labels.reshape(*labels.shape, *[1] * (3 - labels.ndim)).T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    with atomic(path) as temporary:
        package.WriteImage(image, str(temporary), True)
