"""What the tests of the data write and use; imported by name because pytest puts this folder on the path."""

from pathlib import Path

import nibabel as nib
import numpy as np
from monai.transforms import ScaleIntensityRanged


def save(path: Path, voxels: np.ndarray, *, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def scale() -> ScaleIntensityRanged:
    return ScaleIntensityRanged(keys=["image"], a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True)
