"""Scores over the voxels of all cases together, as semantic segmentation of photographs is scored (the DToP paper).

A mean over cases weighs every case alike; a pooled score weighs every voxel alike, so that large organs decide.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Voxels(NamedTuple):
    """Voxels of a class in both maps, in the prediction alone, and in the truth alone."""

    hit: float
    wrong: float
    lost: float


# names of the fields of a row, in the order of `Voxels`
VOXEL_COUNTS = ("voxels_hit", "voxels_wrong", "voxels_lost")


def pooled_iou(counts: Iterable[Voxels]) -> float | None:
    """Sum of the hits over the sum of the unions of all cases.

    None where no case has the class in either map, and where a case was scored without counting (nan).
    """
    hit, wrong, lost = map(math.fsum, zip(*counts, strict=True))
    union = hit + wrong + lost
    return hit / union if union > 0 else None
