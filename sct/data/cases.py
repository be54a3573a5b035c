"""What data sets are made of: cases, label maps, preprocessed volumes and batches.

Letters: B crops of a batch, C channels, S spatial size (2 or 3 numbers).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch

from sct.errors import UserError


@dataclass(frozen=True)
class Case:
    """One patient: an image file and, where there is one, its label file.

    rater: where an image has several label files, which of them this is
    """

    id: str
    image: Path
    label: Path | None
    rater: str | None = None

    @property
    def name(self) -> str:
        """What the case is called in every list, table and file: its id, and its rater where it has one."""
        return self.id if self.rater is None else f"{self.id}@{self.rater}"


@dataclass(frozen=True)
class LabelMap:
    """Names of the classes; the index of a name is its value in the label files.

    Raises `UserError` unless there are at least two different names and the first is `background`.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) != len(self.names) or self.names[0] != "background":
            raise UserError(
                f"The label map {list(self.names)} is not valid: it needs at least two different names, "
                "and the first, which is value 0, must be 'background'. Correct data.labels or dataset.json."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of all classes but the background, in the order of their values 1, 2, ..."""
        return self.names[1:]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file are: shape (*S) in file order, number of channels, affine (4, 4) to `unit`.

    unit: `voxel` where the file knows no spacing; its affine is then the identity
    """

    shape: tuple[int, ...]
    num_channels: int
    affine: np.ndarray
    unit: Literal["mm", "voxel"] = "mm"

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along every axis in `unit`, (len(shape),)."""
        return np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0)


def window_shape(window: Sequence[int], *, num_dims: int) -> tuple[int, ...]:
    """A window on an image of `num_dims` axes: one of 2 numbers is a single slice, of the first axis, of a volume."""
    return (*[1] * (num_dims - len(window)), *window)


@dataclass(frozen=True)
class Volume:
    """One case after the deterministic transforms, as plain tensors.

    image (C, *S) float32 · label (*S) int64 or None · affine (4, 4) float64, voxel of this grid to world
    source_shape, source_affine: the spatial grid of the image file, in the file's own axis order
    """

    image: torch.Tensor
    label: torch.Tensor | None
    affine: np.ndarray
    source_shape: tuple[int, ...]
    source_affine: np.ndarray

    @property
    def spacing(self) -> list[float]:
        """Voxel size of the preprocessed grid along every axis, in the unit of the source's grid."""
        return np.linalg.norm(self.affine[:3, : self.image.ndim - 1], axis=0).tolist()


class Batch(TypedDict):
    """One micro-batch: image (B, C, *S) float32, label (B, *S) int64, case ids (B)."""

    image: torch.Tensor
    label: torch.Tensor
    case: list[str]
