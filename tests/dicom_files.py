"""Volumes written as DICOM series, and where voxels lie in the world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CT, SOP = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
STUDY, FRAME = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.2"
ROOT = "1.2.826.0.1.3680043.10."


def needs_itk() -> None:
    pytest.importorskip("SimpleITK", reason="the extra itk is not installed")


def needs_dicom() -> None:
    """Tests write series with pydicom, which comes with highdicom."""
    needs_itk()
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")


def oblique(spacing: Sequence[float], *, turn: float = 0.3, negated: Sequence[int] = ()) -> np.ndarray:
    """An affine (4, 4) to RAS with turned, and some negated, axes and an origin off zero."""
    c, s = np.cos(turn), np.sin(turn)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    signs = [-1.0 if axis in negated else 1.0 for axis in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turned * np.array(signs) * np.array(spacing)
    affine[:3, 3] = (-31.5, 47.25, 112.0)
    return affine


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    affine: np.ndarray,
    number: int = 5,
    slopes: Sequence[float] = (1.0,),
    intercept: float = -1024.0,
    skip: Sequence[int] = (),
    **tags: object,
) -> Path:
    """Voxels (W, H, K) of whole numbers, HU, on `affine` (4, 4) to RAS; the files' names say nothing of their order.

    number: of the series, which makes its UID · slopes: of the slices in turn · skip: slices that are left out
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset

    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    names = np.random.default_rng(number).permutation(voxels.shape[2])
    for k in set(range(voxels.shape[2])) - set(skip):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CT
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{ROOT}{number}.{k + 1}"
        data.file_meta.TransferSyntaxUID = SOP
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = f"{ROOT}{number}", STUDY, FRAME
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "p1", "Doe^Jane", "", ""
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20240101", "120000", ""
        data.ReferringPhysicianName, data.Modality, data.SeriesDescription = "", "CT", f"abdomen {number}"
        data.SeriesNumber, data.InstanceNumber, data.Manufacturer = number, int(names[k]) + 1, "maker"
        data.Rows, data.Columns, data.SamplesPerPixel = voxels.shape[1], voxels.shape[0], 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelSpacing = [float(f"{size[1]:.8f}"), float(f"{size[0]:.8f}")]
        data.ImageOrientationPatient = [float(f"{x:.10f}") for x in (lps[:3, :2] / size[:2]).T.ravel()]
        data.ImagePositionPatient = [float(f"{x:.8f}") for x in (lps @ [0, 0, k, 1])[:3]]
        slope = slopes[k % len(slopes)]
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
        data.PixelData = np.ascontiguousarray(np.rint((voxels[:, :, k].T - intercept) / slope), np.int16).tobytes()
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(folder / f"IM{names[k]:03d}", enforce_file_format=True)
    return folder


def places(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World places of all voxels (*S, 3)."""
    index = np.moveaxis(np.indices(tuple(shape)), 0, -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def at_places(voxels: np.ndarray, *, affine: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The voxels (*S) at world places (*T, 3), which are centres of voxels."""
    index = (where - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    whole = np.rint(index).astype(int)
    assert np.abs(index - whole).max() < 1e-3, "places lie between voxels"
    return voxels[tuple(np.moveaxis(whole, -1, 0))]
