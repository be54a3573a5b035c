"""A predicted label map with its grid."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sct.errors import UserError
from sct.inference.look import View

# writes labels to a path, on the grid of their image
Writer = Callable[[Path, np.ndarray], None]


# endings that name a kind of file; any other last part of a name, such as the 5 of "case.5", belongs to the name
OTHER_KINDS = (
    ".png",
    ".jpg",
    ".tif",
    ".tiff",
    ".txt",
    ".csv",
    ".json",
    ".npy",
    ".npz",
    ".nii",
    ".gz",
    ".nrrd",
    ".mha",
    ".dcm",
)


@dataclass(frozen=True, repr=False)
class Segmentation:
    """Labels of one image on the grid of the image.

    labels (*S): the class of every voxel, an index into `names` · affine (4, 4): from voxels to mm, or the identity
    if the image has no spacing · endings: of the files that `save` writes, the usual one first
    depth (*S) uint8 or None: number of pruning stages that a voxel's patch survived; 0 outside the network's input
    view: what a first look has chosen of the image, on the network's grid; None without one
    """

    labels: np.ndarray
    affine: np.ndarray
    names: tuple[str, ...]
    endings: tuple[str, ...]
    depth: np.ndarray | None = None
    view: View | None = None
    writer: Writer = field(repr=False, kw_only=True)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis in mm; 1 if the image has no spacing."""
        return tuple(np.linalg.norm(self.affine[:3, : self.labels.ndim], axis=0).tolist())

    def save(self, path: str | Path) -> Path:
        """Writes the label map in the kind of file that the path's ending says, one of `endings`; returns the path.

        A path without an ending gets the first, which is that of the image; UserError for an ending of another kind.
        """
        path = Path(path)
        if not path.name.lower().endswith(self.endings):
            if path.suffix.lower() in OTHER_KINDS:
                raise UserError(
                    f"{path}: this label map can be saved as {' or '.join(self.endings)}. Give one of these."
                )
            path = path.with_name(path.name + self.endings[0])
        self.writer(path, self.labels)
        return path

    def __repr__(self) -> str:
        shape, spacing = (" x ".join(f"{size:g}" for size in sizes) for sizes in (self.labels.shape, self.spacing))
        depth = "" if self.depth is None else ", with depth"
        return f"Segmentation({shape} voxels of {spacing} mm, labels {', '.join(self.names)}{depth})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.labels, dtype=dtype, copy=copy)
