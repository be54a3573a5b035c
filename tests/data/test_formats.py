"""Written label maps are read back in the axes of their image, whatever the file's own order is."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from sct.data.formats.base import FileFormat, Nifti
from sct.data.formats.pictures import Pictures
from sct.data.sets.synapse_files import SynapseFiles, write_slice


def nifti(folder: Path, labels: np.ndarray) -> tuple[FileFormat, Path]:
    path = folder / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.float32), np.diag([-1, 2, 1, 1])), path)
    return Nifti(2), path


def picture(folder: Path, labels: np.ndarray) -> tuple[FileFormat, Path]:
    path = folder / "image.jpg"
    Image.new("RGB", labels.shape[::-1]).save(path)
    return Pictures(3), path


def synapse(folder: Path, labels: np.ndarray) -> tuple[FileFormat, Path]:
    path = folder / "image.npz"
    write_slice(path, image=np.zeros(labels.shape), label=labels, spacing=np.array([3.0, 1.0, 2.0]))
    return SynapseFiles(), path


@pytest.mark.parametrize("make", [nifti, picture, synapse])
def test_read_written(tmp_path: Path, make) -> None:
    labels = np.arange(20).reshape(4, 5).astype(np.uint8) % 3
    file_format, image = make(tmp_path, labels)
    written = file_format.save_labels(tmp_path / "out" / "case", labels, like=image)
    np.testing.assert_array_equal(file_format.read_written(written), labels)
