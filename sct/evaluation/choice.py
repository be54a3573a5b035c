"""Which post-processing raises Dice on some cases: the score of every candidate, class by class.

Letters: S size of a label map (2 or 3 dims), K number of candidates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sct.data.outputs import Outputs
from sct.inference.postprocess import Parts, Postprocessing, Steps, class_values, parts_of, voxel_volume

# mm^3, or voxels where a file knows no spacing
SMALLEST = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
# from simple to less so: of candidates with the same score the first is taken
CANDIDATES = tuple(
    Steps(largest=largest, smallest=smallest, fill_holes=fill_holes)
    for largest, smallest in ((False, 0.0), (True, 0.0), *((False, size) for size in SMALLEST))
    for fill_holes in (False, True)
)
# less than this is no gain
ROUNDING = 1e-9


@dataclass
class Trial:
    """Dice of all candidates on the cases so far: by label value, a row (K) for every case; nan where absent."""

    outputs: Outputs
    scores: dict[int, list[np.ndarray]] = field(default_factory=dict)
    # label values of the classes that were in a truth
    is_known: set[int] = field(default_factory=set)

    def add(self, pred: np.ndarray, truth: np.ndarray, *, affine: np.ndarray) -> None:
        """Scores one case: two label maps (*S) and the affine of their grid."""
        voxel = voxel_volume(affine, num_dims=pred.ndim)
        values = [value for (value,) in class_values(self.outputs).values()]
        parts = parts_of(pred, values=values)
        sizes = np.bincount(truth.ravel().astype(np.int64), minlength=max(values) + 1)
        for value in values:
            if sizes[value]:
                self.is_known.add(value)
            row = case_scores(parts.get(value), truth, value=value, total=int(sizes[value]), voxel=voxel)
            self.scores.setdefault(value, []).append(row)

    def choose(self) -> tuple[Postprocessing, dict[str, dict[str, float]]]:
        """For every class the steps with the best mean Dice, and the means without and with them by name of the class.

        A class keeps steps only where they raise its mean; a class that is in no truth gets none.
        """
        steps, gains = {}, {}
        for name, (value,) in class_values(self.outputs).items():
            means = np.array([mean(column) for column in np.stack(self.scores[value]).T])
            if value not in self.is_known:
                continue
            best = int(np.argmax(means > np.nanmax(means) - ROUNDING))
            if means[best] > means[0] + ROUNDING:
                steps[value] = CANDIDATES[best]
                gains[name] = {"without": float(means[0]), "with": float(means[best])}
        return Postprocessing(steps), gains


def case_scores(parts: Parts | None, truth: np.ndarray, *, value: int, total: int, voxel: float) -> np.ndarray:
    """Dice (K) of a class after every candidate; total: its voxels in the truth (*S)."""
    if parts is None:
        return np.full(len(CANDIDATES), 0.0 if total else math.nan)
    wanted = truth[parts.box] == value
    known: dict[tuple[bytes, bool], float] = {}
    row = []
    for steps in CANDIDATES:
        kept = parts.kept(steps, voxel=voxel)
        key = (kept.tobytes(), steps.fill_holes)
        if key not in known:
            mask = parts.mask(kept, fill_holes=steps.fill_holes)
            both = int(np.count_nonzero(mask)) + total
            known[key] = 2 * int(np.count_nonzero(mask & wanted)) / both if both else math.nan
        row.append(known[key])
    return np.array(row)


def mean(values: Sequence[float]) -> float:
    """The mean of what is measured; nan of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def choice_table(gains: Mapping[str, Mapping[str, float]], steps: Mapping[str, Mapping[str, object]]) -> str:
    """What was chosen, a line for every class with steps."""
    if not gains:
        return "no step raises the mean Dice of a class on the validation cases: nothing is done"
    lines = [
        f"{name}: {', '.join(f'{key}={value}' for key, value in steps[name].items())}  "
        f"Dice {gain['without']:.4f} -> {gain['with']:.4f}"
        for name, gain in gains.items()
    ]
    return "\n".join(lines)
