"""What data sets are made of: cases, label maps, preprocessed volumes and batches.

Letters: B crops of a batch, C channels, S spatial size (2 or 3 numbers).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, TypedDict, TypeVar, cast

import numpy as np
import torch

from sct.errors import UserError

Values = TypeVar("Values", torch.Tensor, np.ndarray)


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

    has_ignored: the label files may also hold one value more, `ignored`: of voxels that count in no loss and no score.
    The classes are the same with and without it, and so are two label maps.

    Raises `UserError` unless there are at least two different names and the first is `background`.
    """

    names: tuple[str, ...]
    has_ignored: bool = field(default=False, compare=False)

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

    @property
    def ignored(self) -> int | None:
        """The value of voxels to ignore, the first behind those of the classes; None where there are none."""
        return len(self.names) if self.has_ignored else None

    @property
    def num_values(self) -> int:
        """How many values the label files may hold."""
        return len(self.names) + self.has_ignored

    def known(self, labels: Values) -> Values | None:
        """Which voxels of labels (*S) count: bool (*S); None, and no mask is made, where none is to be ignored."""
        return cast(Values, labels != self.ignored) if self.has_ignored else None

    def cleared(self, labels: Values) -> Values:
        """The labels (*S) with background where they are to be ignored; the same object where there is nothing so."""
        known = self.known(labels)
        return labels if known is None else labels * known


# in voxels: how far the grids of files that belong together may be apart at the corners
TOLERANCE = 0.1


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

    def distance(self, other: "Grid") -> float:
        """How far the same corner lies apart on another grid of this shape, at most, in `unit`."""
        extent = np.zeros(3)
        extent[: len(self.shape)] = np.array(self.shape) - 1
        corners = np.array(np.meshgrid(*[(0.0, e) for e in extent])).reshape(3, -1)
        difference = (other.affine - self.affine)[:3]
        return float(np.linalg.norm(difference[:, :3] @ corners + difference[:, 3:], axis=0).max())


def window_shape(window: Sequence[int], *, num_dims: int) -> tuple[int, ...]:
    """A window on an image of `num_dims` axes: one of 2 numbers is a single slice, of the first axis, of a volume."""
    return (*[1] * (num_dims - len(window)), *window)


# a part of a grid: the voxels of each axis
Box = tuple[slice, ...]


def whole_box(shape: Sequence[int]) -> Box:
    """All of a grid of `shape`."""
    return tuple(slice(0, size) for size in shape)


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

    def part(self, box: Box) -> Self:
        """A part of this volume, on the same source grid."""
        affine, dims = self.affine.copy(), len(box)
        affine[:dims, -1] += affine[:dims, :dims] @ [edge.start for edge in box]
        label = None if self.label is None else self.label[box]
        return replace(self, image=self.image[(slice(None), *box)], label=label, affine=affine)


class Batch(TypedDict):
    """One micro-batch: image (B, C, *S) float32, label (B, *S) int64, case ids (B).

    The label of a case without label file is background everywhere: transforms of image and label then serve both.
    """

    image: torch.Tensor
    label: torch.Tensor
    case: list[str]
