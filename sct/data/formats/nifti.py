"""NIfTI files: header or voxels, in file order or turned to RAS, with errors that name the file; label maps."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from sct.data.cases import Grid
from sct.data.formats import gzipped
from sct.data.formats.geometry import check_affine
from sct.data.formats.gzipped import GzipFile
from sct.data.formats.nifti_header import distance_of_forms, is_packed, read_header, source_of_affine, unit_in_mm
from sct.errors import UserError
from sct.runtime.files import atomic

logger = logging.getLogger(__name__)

# voxels by which sform and qform may differ: the qform is a rounded quaternion
SAME_PLACE = 0.1
# Voxels along the first two axes that are turned around together: near the processor with all that lie behind them.
TILE = (64, 16)
# what is left to go wrong once the header is checked: packed voxels, and a size that no memory holds
UNREADABLE: tuple[type[Exception], ...] = (ImageFileError, ValueError, MemoryError, *gzipped.ERRORS)
# Where the axes of a volume lead whose slices are seen: from slice to slice, down the rows, along the columns. The
# patient's right or front is on the left, as radiologists look at slices.
SLICE_AXES: dict[str | None, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "RIP"}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: the file does not exist. Restore it or take the case out.") from None
    except UNREADABLE as error:
        raise UserError(
            f"{path}: cannot be read as NIfTI ({type(error).__name__}: {error}). It is empty, truncated, damaged "
            "or of another format: copy or download it again."
        ) from error


def _open(path: Path, *, spatial_dims: int) -> tuple[nib.Nifti1Image, Grid]:
    """The image, whose voxels are still on the disk, and its grid, once every claim of its header is checked."""
    header = read_header(path)
    shape, num_channels = spatial_shape(header.get_data_shape(), path=path, spatial_dims=spatial_dims)
    check_numbers(header.get_data_dtype(), path=path)
    try:
        image = nib.load(path)
    except (HeaderDataError, ValueError) as error:
        # what is left to go wrong lies between the header and the voxels
        raise UserError(
            f"{path}: its header extensions (esize) are damaged ({error}). Copy or download it again, or convert it "
            "anew."
        ) from error
    assert isinstance(image, nib.Nifti1Image)
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= unit_in_mm(header)
    check_affine(affine, path=path, source=source_of_affine(header))
    if (apart := distance_of_forms(header)) > SAME_PLACE:
        _tell_of_forms(path, apart)
    return image, Grid(shape, num_channels, affine)


@lru_cache(maxsize=2**16)  # once for each file, which is read several times
def _tell_of_forms(path: Path, apart: float) -> None:
    logger.warning("%s: its sform and its qform are up to %.3g voxels apart. The sform is used", path, apart)


def spatial_shape(shape: Sequence[int], *, path: Path, spatial_dims: int) -> tuple[tuple[int, ...], int]:
    """The shape (*S) and the number of channels of an image file with axes `shape`; UserError for other axes."""
    # Trailing axes of length 1 are common (x, y, z, 1); what is left after the space is the channel axis.
    axes = list(shape)
    while len(axes) > spatial_dims and axes[-1] == 1:
        axes.pop()
    if not spatial_dims <= len(axes) <= spatial_dims + 1:
        raise UserError(
            f"{path}: has shape {tuple(shape)}, but a {spatial_dims}-D image with an optional last "
            "axis of channels is expected. Remove the file or give data.roi_size the right number of axes; slices of "
            "volumes are seen with two numbers and data.slices=axial."
        )
    if min(axes, default=0) < 1:
        raise UserError(f"{path}: has shape {tuple(shape)}, so no voxel in it. Convert the image again.")
    return tuple(axes[:spatial_dims]), axes[spatial_dims] if len(axes) > spatial_dims else 1


def check_numbers(kind: np.dtype, *, path: Path) -> None:
    """UserError where a voxel is not one real number for each channel."""
    if kind.kind not in "iufb":
        what = "colours (RGB)" if kind.names else "complex numbers" if kind.kind == "c" else str(kind)
        raise UserError(
            f"{path}: its voxels hold {what}, not one number each. Convert it to one volume for each channel, such as "
            "the magnitude of a complex image."
        )


def read_grid(path: Path, *, spatial_dims: int) -> Grid:
    """Read the header only; raises `UserError` naming the file."""
    with _readable(path):
        return _open(path, spatial_dims=spatial_dims)[1]


def read_voxels(path: Path, *, spatial_dims: int, as_stored: bool = False) -> tuple[np.ndarray, Grid]:
    """Read the voxels with channels first, (C, *S) float32 in file order, and the grid.

    as_stored: whole numbers that the header does not scale stay as they are, in half the memory or less.
    """
    with _readable(path):
        image, grid = _open(path, spatial_dims=spatial_dims)
        stays = as_stored and image.get_data_dtype().kind in "iu" and _is_unscaled(image)
        voxels = _voxels(image, path, dtype=None if stays else np.float32)
    voxels = voxels.reshape(*grid.shape, grid.num_channels)
    return np.moveaxis(voxels, -1, 0), grid


def _is_unscaled(image: nib.Nifti1Image) -> bool:
    return (getattr(image.dataobj, "slope", None), getattr(image.dataobj, "inter", None)) == (1, 0)


def _voxels(image: nib.Nifti1Image, path: Path, *, dtype: type[np.float32] | None) -> np.ndarray:
    """In file order, as `dtype` or as they are stored; zlib would unpack a file in more than twice the time."""
    if not is_packed(path):
        return np.asarray(image.dataobj, dtype=dtype)
    with GzipFile(path) as stream:
        voxels = np.asarray(type(image).from_stream(stream).dataobj, dtype=dtype)
        # the end, where the sum of all that was packed is compared
        if stream.read(1):
            raise ImageFileError("there are more bytes behind the voxels")
    return voxels


def turned(voxels: np.ndarray, *, affine: np.ndarray, axes: str = "RAS") -> tuple[np.ndarray, np.ndarray]:
    """Turn voxels (C, X, Y, Z) so that their axes lead, as closely as whole turns can, where the letters `axes` say.

    axes: of R and L (right, left), A and P (front, back), S and I (up, down) one each, such as RAS
    Returns a view of the voxels with its affine (4, 4).
    """
    found, wanted = nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    turns = nib.orientations.ornt_transform(found, wanted)
    view = nib.orientations.apply_orientation(np.moveaxis(voxels, 0, -1), turns)
    inverse = nib.orientations.inv_ornt_aff(turns, voxels.shape[1:])
    return np.moveaxis(view, -1, 0), affine @ inverse


def save_label_map(path: Path, labels: np.ndarray, *, like: Path) -> None:
    """Write labels (*source_shape) as NIfTI in the grid of the file `like`, whole or not at all.

    Affines, their codes, spacing and units stay as they are in `like`, channels are dropped, and the scaling
    of intensities and the display window are reset.
    """
    source = nib.load(like)
    assert isinstance(source, nib.Nifti1Image)
    header = source.header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(labels.shape)
    # nibabel sets the thickness of a single slice to 1, and its qform with it
    header["pixdim"][1:4] = source.header["pixdim"][1:4]
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    # The class of the source keeps NIfTI-2 as NIfTI-2; without an affine, qform and sform stay as they are.
    save_image(path, type(source)(in_file_order(labels), None, header))


def save_image(path: Path, image: nib.Nifti1Image) -> None:
    """Write an image, whole or not at all; packed where the path ends in .gz."""
    with atomic(path) as temporary:
        if path.suffix.lower() != ".gz":
            nib.save(image, temporary)
            return
        # neither name nor time within, so that equal labels are equal files
        with temporary.open("wb") as file, GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            image.to_stream(stream)


def in_file_order(voxels: np.ndarray) -> np.ndarray:
    """The voxels (*S) with the first axis running fastest in memory, as files have it.

    Tile by tile in an eighth of the time that numpy takes for all of a CT's labels at once.
    """
    turned = np.empty_like(voxels, order="F")
    for box in itertools.product(*(tiles(size, edge) for size, edge in zip(voxels.shape, TILE, strict=False))):
        turned[box] = voxels[box]
    return turned


def tiles(size: int, edge: int) -> list[slice]:
    """An axis of `size` in pieces of `edge`."""
    return [slice(start, start + edge) for start in range(0, size, edge)]
