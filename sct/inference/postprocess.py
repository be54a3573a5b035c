"""Post-processing of label maps: small parts of a class taken away, holes in a class filled.

Letters: S size of a label map (2 or 3 dims), s of the box round a class, P number of its components.

Voxels belong to the same component where they share a face, an edge or a corner (8 neighbours in 2-D, 26 in 3-D). A
hole is a part of the rest, joined by faces, that touches nothing but the class and holds no other class. What is taken
away becomes background. So no class changes another one, and the order of the classes does not matter.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import scipy

from sct.data.outputs import Outputs
from sct.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to one class, in this order.

    largest: keep the largest component alone, the first of equals
    smallest: take components away that are smaller, in mm^3 (mm^2 in 2-D), or in voxels where a file knows no spacing
    fill_holes: fill holes
    """

    largest: bool = False
    smallest: float = 0.0
    fill_holes: bool = False

    def __bool__(self) -> bool:
        return self != Steps()

    def settings(self) -> dict[str, Any]:
        """Only what is not left at its default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Steps(), name)}


class Parts:
    """The components of a class in a label map (*S): box: round all of them; sizes (P) in voxels."""

    def __init__(self, labels: np.ndarray, *, value: int, box: tuple[slice, ...]) -> None:
        self.box, self.value = box, value
        self._labels = labels[box]
        connected = np.ones((3,) * labels.ndim, dtype=bool)
        self._numbers, _ = scipy.ndimage.label(self._labels == value, structure=connected)
        self.sizes = np.bincount(self._numbers.ravel())[1:]

    def kept(self, steps: Steps, *, voxel: float) -> np.ndarray:
        """Which components (P) stay; `voxel`: the volume of a voxel."""
        kept = self.sizes * voxel >= steps.smallest
        if steps.largest:
            kept &= np.arange(len(self.sizes)) == self.sizes.argmax()
        return kept

    def mask(self, kept: np.ndarray, *, fill_holes: bool) -> np.ndarray:
        """The class (*s) of the components that stay."""
        mask = np.concatenate([[False], kept])[self._numbers]
        return mask | self._holes(mask) if fill_holes else mask

    def _holes(self, mask: np.ndarray) -> np.ndarray:
        numbers, count = scipy.ndimage.label(~mask)
        is_hole = np.ones(count + 1, dtype=bool)
        is_hole[0] = False
        # what reaches the end of the box goes on outside of it, or out of the image
        for axis in range(mask.ndim):
            is_hole[numbers.take([0, -1], axis=axis)] = False
        is_hole[numbers[(self._labels != 0) & (self._labels != self.value)]] = False
        return is_hole[numbers]


@dataclass(frozen=True)
class Postprocessing:
    """The steps of classes, by label value; a class without steps stays as it is."""

    steps: Mapping[int, Steps] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.steps.values())

    def apply(self, labels: np.ndarray, *, affine: np.ndarray) -> np.ndarray:
        """The label map (*S) after all steps; affine (4, 4): of its grid, the identity where that has no spacing."""
        if not self:
            return labels
        voxel, result = voxel_volume(affine, num_dims=labels.ndim), labels.copy()
        for value, parts in parts_of(labels, values=[value for value, steps in self.steps.items() if steps]).items():
            steps, inside = self.steps[value], result[parts.box]
            mask = parts.mask(parts.kept(steps, voxel=voxel), fill_holes=steps.fill_holes)
            inside[(labels[parts.box] == value) & ~mask] = 0
            inside[mask] = value
        return result

    def settings(self, outputs: Outputs) -> dict[str, dict[str, Any]]:
        """The steps by the name of a class, as files have them."""
        return (
            {
                name: steps.settings()
                for name, (value,) in class_values(outputs).items()
                if (steps := self.steps.get(value, Steps()))
            }
            if self
            else {}
        )


def from_settings(settings: Any, *, outputs: Outputs, source: str) -> Postprocessing:
    """The steps that a file names; UserError, with the file as `source`, for what is no step of a class."""
    if not settings:
        return Postprocessing()
    if not isinstance(settings, Mapping):
        raise UserError(f"{source}: the steps must be a mapping from class to steps, not {settings!r}.")
    values, known, found = class_values(outputs), [setting.name for setting in fields(Steps)], {}
    for name, own in settings.items():
        if name not in values:
            raise UserError(f"{source}: names the class {name}, but predicted are {', '.join(values)}.")
        if not isinstance(own, Mapping) or not set(own) <= set(known):
            raise UserError(f"{source}: {name}: {own!r} must be steps with their values: {', '.join(known)}.")
        smallest = own.get("smallest", 0.0)
        flags = [own.get("largest", False), own.get("fill_holes", False)]
        if not all(isinstance(flag, bool) for flag in flags) or isinstance(smallest, bool):
            raise UserError(f"{source}: {name}: largest and fill_holes must be true or false, smallest a volume.")
        if not isinstance(smallest, int | float) or not 0 <= smallest < math.inf:
            raise UserError(f"{source}: {name}: smallest={smallest!r} must be a volume from 0 on.")
        found[values[name][0]] = Steps(largest=flags[0], smallest=float(smallest), fill_holes=flags[1])
    return Postprocessing(found)


def class_values(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    """The label value of every class; UserError where regions are predicted, which share label values."""
    if outputs.overlapping:
        raise UserError(
            f"Post-processing is for classes, and predicted are regions that may overlap ({', '.join(outputs.names)}): "
            "a part that is taken away from one region would still be in another. Use postprocess=none."
        )
    return outputs.scored


def parts_of(labels: np.ndarray, *, values: list[int]) -> dict[int, Parts]:
    """The components of the classes that are in a label map (*S)."""
    boxes = scipy.ndimage.find_objects(labels, max_label=max(values, default=0))
    return {value: Parts(labels, value=value, box=box) for value in values if (box := boxes[value - 1]) is not None}


def voxel_volume(affine: np.ndarray, *, num_dims: int) -> float:
    """Volume of a voxel of the grid of an affine, in mm^3, or mm^2 of two axes; 1 of the identity."""
    return float(np.linalg.norm(affine[:3, :num_dims], axis=0).prod())
