"""Medical images of every kind that is read: here alone it is decided by which kind a path is read and written.

Letters: S spatial size (2 or 3 numbers).
"""

import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from sct.data.cases import Grid
from sct.data.formats.base import FileFormat, Nifti
from sct.data.formats.dicom import Dicom
from sct.data.formats.dicom_seg import SEG_ENDING, highdicom, save_seg
from sct.data.formats.itk import mha, nrrd, save_itk, simpleitk
from sct.data.formats.nifti import in_file_order, save_image
from sct.errors import UserError

logger = logging.getLogger(__name__)

DICOM_SEG = "dicom-seg"
# kinds of files for label maps, by what users call them: the ending of new files
KINDS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", DICOM_SEG: ".nii.gz"}
NIFTI_ENDINGS, ITK_ENDINGS = (".nii.gz", ".nii"), (".nrrd", ".mha")


@dataclass(frozen=True, slots=True)
class Written:
    """How label maps are written. kind: one of `KINDS`, or None for the image's own; names: of the labels by value.

    Slots: nothing of this changes what is read, so that `describe` does not show it.
    """

    kind: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise UserError(
                f"format={self.kind} (data.label_format) is unknown: choose one of {', '.join(KINDS)}, or null for the "
                "input's own."
            )


@dataclass(frozen=True)
class Volumes(FileFormat):
    """NIfTI, NRRD and MHA files, and DICOM series, told apart by the ending of the path.

    series: UID of the DICOM series to read where a folder or zip file holds several
    """

    spatial_dims: int
    series: str | None = None
    written: Written = field(default=Written(), compare=False)
    name = "NIfTI, NRRD, MHA or DICOM"
    suffixes = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".zip")
    label_suffix = ".nii.gz"

    @property
    def kinds(self) -> list[FileFormat]:
        dims = self.spatial_dims
        return [Nifti(dims), nrrd(dims), mha(dims), Dicom(dims, self.series)]

    def kind_of(self, path: Path) -> FileFormat:
        """What reads a path. Of an unknown ending NIfTI, whose message says what is wrong."""
        nifti, *others = self.kinds
        name = path.name.lower()
        return next((kind for kind in others if name.endswith(kind.suffixes)), others[-1] if path.is_dir() else nifti)

    def files(self, image: Path) -> list[Path]:
        return self.kind_of(image).files(image)

    def remark(self, image: Path) -> str | None:
        return self.kind_of(image).remark(image)

    def read_grid(self, path: Path) -> Grid:
        return self.kind_of(path).read_grid(path)

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self.kind_of(path).read_image(path)

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self.kind_of(path).read_stored(path)

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self.kind_of(path).read_label(path)

    def is_image(self, path: Path) -> bool:
        return self.kind_of(path).is_image(path)

    def stem(self, path: Path) -> str:
        return self.kind_of(path).stem(path)

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        own = self.kind_of(like)
        is_series = isinstance(own, Dicom)
        if self.written.kind == DICOM_SEG:
            if not is_series:
                raise UserError(
                    f"{like}: format=dicom-seg (data.label_format) is for DICOM series, to whose slices a DICOM SEG "
                    "refers. Choose nifti, nrrd or mha."
                )
            highdicom(like)
        first = own.label_suffix if self.written.kind is None else KINDS[self.written.kind]
        if first in ITK_ENDINGS:
            simpleitk(like)  # before anything is computed
        known = (*NIFTI_ENDINGS, *ITK_ENDINGS, *((SEG_ENDING,) if is_series else ()))
        return (first, *(ending for ending in known if ending != first))

    def write_beside(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        """A DICOM SEG beside the label map of a DICOM series, unless the user has chosen another kind."""
        can = self.written.kind is None and len(self.written.names) > 1 and find_spec("highdicom") is not None
        if (can or self.written.kind == DICOM_SEG) and isinstance(self.kind_of(like), Dicom):
            ending = next((e for e in (*NIFTI_ENDINGS, *ITK_ENDINGS) if path.name.lower().endswith(e)), "")
            try:
                self.write_labels(path.with_name(path.name.removesuffix(ending) + SEG_ENDING), labels, like=like)
            except UserError as error:
                if self.written.kind == DICOM_SEG:
                    raise
                logger.warning("%s", error)

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        """Write labels (*S) on the grid of `like`, in the kind of file that the ending of `path` says."""
        own = self.kind_of(like)
        if path.name.lower().endswith(SEG_ENDING):
            assert isinstance(own, Dicom)
            with own.opened(like) as series:
                save_seg(path, labels, series=series, names=self.written.names)
        elif isinstance(own, Nifti) and path.name.lower().endswith(NIFTI_ENDINGS):
            own.write_labels(path, labels, like=like)  # keeps the whole header
        else:
            save_on_grid(path, labels, grid=own.read_grid(like))


def save_on_grid(path: Path, labels: np.ndarray, *, grid: Grid) -> None:
    """Write labels (*S) in the kind of file that the ending of `path` says, with an affine and no more of a header."""
    if path.name.lower().endswith(ITK_ENDINGS):
        save_itk(path, labels, grid=grid)
    else:
        save_image(path, nib.Nifti1Image(in_file_order(labels), grid.affine))
