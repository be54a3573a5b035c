"""Overlap, accuracy and the distance of surfaces per case and class, and the means over them.

Legend: S spatial size (2 or 3 dims), R what is scored: classes without the background, or regions, which are unions of
label values and may overlap. A class is a region of one value; "organ" below stands for either.

The policy on empty masks, the same in every function:

* organ in neither mask: nothing to measure, nan, left out of every mean and counted as absent;
* organ missed (in the truth, not in the prediction): every score has its worst value, which is 0, and for HD95 the
  diagonal of the image;
* false positive (in the prediction, not in the truth): the same values.

Voxels that the data set tells to ignore (`LabelMap.ignored`) are of neither mask and are not counted.

No distance within an image reaches its diagonal, so leaving an organ out never pays. Accuracy and specificity by
their counts alone would break that: they reward marking nothing where little is to be marked.

HD95 is in mm where the spacing of the image is known and in voxels otherwise, under another name. So is the tolerance
of the normalised surface Dice (NSD), which itself has no unit.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage

from sct.data.outputs import Outputs, any_of
from sct.evaluation.lesions import Lesions, count_lesions, pooled
from sct.evaluation.pooled import VOXEL_COUNTS, Voxels, pooled_iou
from sct.evaluation.surfaces import Box, bounding_box, join, surface_scores

OVERLAPS = ("dice", "iou", "accuracy", "sensitivity", "specificity")
# scores from 0 to 1
SHARES = (*OVERLAPS, "nsd")
DISTANCES = ("hd95_mm", "hd95_voxel")
# over all cases together
POOLED = ("pooled_iou",)
# of the lesions of a class, where they are asked for
LESION_SHARES = ("lesion_sensitivity", "lesion_precision", "lesion_f1")
LESION_COUNTS = ("lesions_found", "lesions_missed", "lesions_false")
# of NSD, in mm or voxels, where nothing else is said
TOLERANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of a class or region in a case; nan where there is nothing to measure. One of the distances is nan.

    Of the voxels of the class, against all others: dice 2 TP / (2 TP + FP + FN), iou TP / (TP + FP + FN),
    accuracy (TP + TN) / all, sensitivity TP / (TP + FN), specificity TN / (TN + FP), 1 if the class fills the image.
    Of its surfaces: nsd the share within the tolerance, hd95 the 95 % Hausdorff distance, see `surface_scores`.
    voxels_hit, voxels_wrong, voxels_lost: TP, FP and FN, for scores over all cases together.
    Of its connected parts, where asked: how many are found, missed and false, see `sct.evaluation.lesions`.
    """

    case_id: str
    class_name: str
    missed: bool
    false_positive: bool
    dice: float
    iou: float = math.nan
    accuracy: float = math.nan
    sensitivity: float = math.nan
    specificity: float = math.nan
    nsd: float = math.nan
    hd95_mm: float = math.nan
    hd95_voxel: float = math.nan
    voxels_hit: float = math.nan
    voxels_wrong: float = math.nan
    voxels_lost: float = math.nan
    lesion_sensitivity: float = math.nan
    lesion_precision: float = math.nan
    lesion_f1: float = math.nan
    lesions_found: float = math.nan
    lesions_missed: float = math.nan
    lesions_false: float = math.nan

    @property
    def absent(self) -> bool:
        return math.isnan(self.dice)

    @property
    def lesions(self) -> Lesions | None:
        """The lesions of the class; None where nobody counted."""
        counts = [getattr(self, name) for name in LESION_COUNTS]
        return None if any(map(math.isnan, counts)) else Lesions(*map(int, counts))


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks (*S); nan if both are empty."""
    total = int(np.count_nonzero(pred) + np.count_nonzero(truth))
    return 2.0 * int(np.count_nonzero(np.logical_and(pred, truth))) / total if total else math.nan


def surface_pair(
    pred: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and NSD of two masks (*S) from one pass, in the unit of `spacing`; empty masks as the policy says."""
    pred, truth = (np.asarray(mask, dtype=bool) for mask in (pred, truth))
    box_pred, box_truth = bounding_box(pred), bounding_box(truth)
    if box_pred is None and box_truth is None:
        return math.nan, math.nan
    if box_pred is None or box_truth is None:
        return diagonal(pred.shape, spacing=spacing), 0.0
    box = join(box_pred, box_truth)
    return surface_scores(pred[box], truth[box], spacing=spacing, tolerance=tolerance)


def hd95(pred: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float]) -> float:
    """95 % Hausdorff distance of two masks (*S) in the unit of `spacing`; empty masks as the policy says."""
    return surface_pair(pred, truth, spacing=spacing, tolerance=0)[0]


def nsd(pred: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float], tolerance: float) -> float:
    """Normalised surface Dice of two masks (*S): the share of both surfaces no farther than `tolerance` from the other.

    tolerance: in the unit of `spacing`; empty masks as the policy says
    """
    return surface_pair(pred, truth, spacing=spacing, tolerance=tolerance)[1]


def diagonal(shape: Sequence[int], *, spacing: Sequence[float]) -> float:
    """Diagonal of an image in the unit of `spacing`: what a missed organ costs."""
    return float(np.linalg.norm(np.asarray(shape) * np.asarray(spacing)))


def score_case(
    pred_labels: np.ndarray,
    truth_labels: np.ndarray,
    *,
    outputs: Outputs,
    spacing: Sequence[float],
    case_id: str,
    unit: Literal["mm", "voxel"] = "mm",
    surface: bool = True,
    tolerance: Mapping[str, float] | None = None,
    lesions: bool = False,
) -> list[Row]:
    """Score what `outputs` names in two label maps (*S), spacing in `unit`.

    tolerance: of NSD in `unit` by name, `TOLERANCE` where it has none. `surface=False` saves the time of HD95 and NSD
    and leaves them nan. `lesions` counts these too. Raises ValueError if the shapes differ.
    """
    if pred_labels.shape != truth_labels.shape:
        raise ValueError(
            f"case {case_id}: prediction {pred_labels.shape} and truth {truth_labels.shape} differ in shape"
        )
    tolerance = tolerance or {}
    worst = (0.0, diagonal(pred_labels.shape, spacing=spacing)) if surface else (math.nan, math.nan)
    known, num_voxels = outputs.label_map.known(truth_labels), truth_labels.size
    if known is not None:
        pred_labels, truth_labels, num_voxels = pred_labels * known, truth_labels * known, int(np.count_nonzero(known))
    pred_labels, truth_labels = _foreground(pred_labels, truth_labels)
    largest = len(outputs.label_map) - 1
    boxes_pred = ndimage.find_objects(pred_labels, max_label=largest)
    boxes_truth = ndimage.find_objects(truth_labels, max_label=largest)
    rows = []
    for name, values in outputs.scored.items():
        box_pred, box_truth = (_box_of(values, boxes) for boxes in (boxes_pred, boxes_truth))
        overlaps, (share, distance) = (0.0,) * len(OVERLAPS), worst
        voxels = Voxels(0, _size(pred_labels, values, box_pred), _size(truth_labels, values, box_truth))
        if box_pred is not None and box_truth is not None:
            box = join(box_pred, box_truth)
            pred, truth = any_of(pred_labels[box], values), any_of(truth_labels[box], values)
            hit = int(np.count_nonzero(pred & truth))
            voxels = Voxels(hit, voxels.wrong - hit, voxels.lost - hit)
            overlaps = _overlaps(voxels, num_voxels=num_voxels)
            if surface:
                limit = tolerance.get(name, TOLERANCE)
                distance, share = surface_scores(pred, truth, spacing=spacing, tolerance=limit)
        elif box_pred is None and box_truth is None:
            overlaps, share, distance = (math.nan,) * len(OVERLAPS), math.nan, math.nan
        counted = _lesion_fields(pred_labels, truth_labels, values, box_pred, box_truth) if lesions else {}
        missed = box_truth is not None and box_pred is None
        false_positive = box_truth is None and box_pred is not None
        rows.append(
            Row(
                case_id=case_id,
                class_name=name,
                missed=missed,
                false_positive=false_positive,
                **dict(zip(OVERLAPS, overlaps, strict=True)),
                nsd=share,
                **{f"hd95_{unit}": distance},
                **dict(zip(VOXEL_COUNTS, map(float, voxels), strict=True)),
                **counted,
            )
        )
    return rows


def _overlaps(voxels: Voxels, *, num_voxels: int) -> tuple[float, ...]:
    """The scores `OVERLAPS` of two masks, neither of them empty, in an image of `num_voxels`."""
    hit, wrong, lost = voxels
    rest = num_voxels - hit - wrong - lost
    return (
        2 * hit / (2 * hit + wrong + lost),
        hit / (hit + wrong + lost),
        (hit + rest) / num_voxels,
        hit / (hit + lost),
        rest / (rest + wrong) if rest + wrong else 1.0,
    )


def _size(labels: np.ndarray, values: Sequence[int], box: Box | None) -> int:
    """Number of voxels of some values in a label map (*S), given the box round them."""
    return 0 if box is None else int(np.count_nonzero(any_of(labels[box], values)))


def _lesion_fields(
    pred: np.ndarray, truth: np.ndarray, values: Sequence[int], box_pred: Box | None, box_truth: Box | None
) -> dict[str, float]:
    """Counts and shares of the lesions of some values in two label maps (*S), given the boxes round them."""
    boxes = [box for box in (box_pred, box_truth) if box is not None]
    box = functools.reduce(join, boxes) if boxes else (slice(0, 0),) * pred.ndim
    lesions = count_lesions(any_of(pred[box], values), any_of(truth[box], values))
    shares = (lesions.sensitivity, lesions.precision, lesions.f1)
    counts = (float(lesions.found), float(lesions.missed), float(lesions.false))
    return dict(zip((*LESION_SHARES, *LESION_COUNTS), (*shares, *counts), strict=True))


def quick_dice(pred: torch.Tensor | np.ndarray, truth: torch.Tensor | np.ndarray, *, outputs: Outputs) -> np.ndarray:
    """Dice (R,) of two label maps (*S) in one pass on their own device; nan where absent."""
    num_values, truth = len(outputs.label_map), torch.as_tensor(truth)
    joint = truth.int().flatten() * num_values + torch.as_tensor(pred).int().flatten()
    known = outputs.label_map.known(truth)
    if known is not None:
        joint = joint[known.flatten()]
    counts = torch.bincount(joint, minlength=num_values**2).reshape(num_values, num_values).cpu().numpy()
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    members = [list(values) for values in outputs.scored.values()]
    hits = np.array([counts[np.ix_(values, values)].sum() for values in members])
    total = np.array([sizes[values].sum() for values in members])
    return np.where(total > 0, 2.0 * hits / np.maximum(total, 1), np.nan)


def unique_rows(rows: Iterable[Row]) -> list[Row]:
    """One row per case and class, ordered by case, whatever process brought it and however often."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.case_id, row.class_name), row)
    return sorted(first.values(), key=lambda row: row.case_id)


def summarize(rows: Iterable[Row], *, groups: Mapping[str, Sequence[str]] | None = None) -> dict:
    """Means and counts of rows, doubles removed: over the cases of a class first, then over classes.

    `groups` asks for further means over named lists of classes. A mean of nothing is None (null in JSON).
    HD95 is there in the units that the rows have, in mm if they have none; other scores than overlaps where a row has
    them, and `pooled_iou` and `lesions`, sums over the cases of a class, where they were counted. Raises ValueError if
    a group names an unknown class.
    """
    rows = unique_rows(rows)
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.class_name, []).append(row)
    groups = groups or {}
    for group, members in groups.items():
        if unknown := set(members) - set(by_class):
            raise ValueError(f"group {group}: unknown classes {sorted(unknown)}, have {list(by_class)}")

    def means(field: str) -> dict:
        return with_means({name: _mean(getattr(row, field) for row in own) for name, own in by_class.items()})

    def with_means(per_class: dict[str, float | None]) -> dict:
        return {
            "mean": _mean(per_class.values()),
            "per_class": per_class,
            "groups": {group: _mean(per_class[name] for name in members) for group, members in groups.items()},
        }

    def known(names: Sequence[str]) -> list[str]:
        return [name for name in names if any(not math.isnan(getattr(row, name)) for row in rows)]

    voxels = {
        name: pooled_iou(Voxels(row.voxels_hit, row.voxels_wrong, row.voxels_lost) for row in own)
        for name, own in by_class.items()
    }
    counted = {
        name: pooled(lesions)
        for name, own in by_class.items()
        if (lesions := [row.lesions for row in own if row.lesions is not None])
    }
    return {
        **{
            name: means(name)
            for name in (*OVERLAPS, *known(("nsd",)), *(known(DISTANCES) or DISTANCES[:1]), *known(LESION_SHARES))
        },
        **({"pooled_iou": with_means(voxels)} if known(VOXEL_COUNTS) else {}),
        **_counts(rows),
        "counts_per_class": {name: _counts(own) for name, own in by_class.items()},
        **({"lesions": counted} if counted else {}),
    }


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "n_cases": len({row.case_id for row in rows}),
        "n_missed": sum(row.missed for row in rows),
        "n_false_positive": sum(row.false_positive for row in rows),
        "n_absent": sum(row.absent for row in rows),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def _foreground(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two label maps (*S) cut to the box round both of their foregrounds, in the same order of memory."""
    boxes = [box for labels in (pred, truth) if (box := bounding_box(labels != 0)) is not None]
    box = functools.reduce(join, boxes) if boxes else (slice(0, 1),) * pred.ndim
    return np.ascontiguousarray(pred[box]), np.ascontiguousarray(truth[box])


def _box_of(values: Sequence[int], boxes: Sequence[Box | None]) -> Box | None:
    """The box round all `values`, given those of the values 1, 2, ..."""
    found = [box for value in values if (box := boxes[value - 1]) is not None]
    return functools.reduce(join, found) if found else None
