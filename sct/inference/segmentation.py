"""A predicted label map with its grid."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# writes labels to a path, on the grid of their image
Writer = Callable[[Path, np.ndarray], None]


@dataclass(frozen=True)
class Segmentation:
    """Labels of one image on the grid of the image.

    labels (*S): the class of every voxel, an index into `names` · affine (4, 4): from voxels to mm, or the identity
    if the image has no spacing · endings: of the files that `save` writes, the usual one first
    depth (*S) uint8 or None: number of pruning stages that a voxel's patch survived; 0 outside the network's input
    """

    labels: np.ndarray
    affine: np.ndarray
    names: tuple[str, ...]
    endings: tuple[str, ...]
    depth: np.ndarray | None = None
    writer: Writer = field(repr=False, kw_only=True)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis in mm; 1 if the image has no spacing."""
        return tuple(np.linalg.norm(self.affine[:3, : self.labels.ndim], axis=0).tolist())

    def save(self, path: str | Path) -> Path:
        """Writes the label map in the kind of file that the path's ending says, one of `endings`; returns the path.

        A path with none of them gets the first, which is that of the image.
        """
        path = Path(path)
        if not path.name.lower().endswith(self.endings):
            path = path.with_name(path.name + self.endings[0])
        self.writer(path, self.labels)
        return path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.labels, dtype=dtype, copy=copy)
