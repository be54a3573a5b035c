"""Checks of a data set's settings, what is not valid and what does not go together, and the crops that they ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sct.data.loading.cache import KINDS
from sct.data.loading.transforms import TrainingCrops
from sct.errors import UserError, visible

if TYPE_CHECKING:  # the data set checks itself by this module
    from sct.data.module import SegmentationData


def check_settings(data: SegmentationData) -> None:
    """UserError for the first setting that is not valid, or that does not go with another one."""
    if not data.reads_volumes and (data.series, data.label_format) != (None, None):
        raise UserError(
            f"series={data.series} (data.series) and format={data.label_format} (data.label_format) are for "
            f"medical images; {type(data).__name__} has files of its own. Leave them out."
        )
    if data.cache not in KINDS:
        raise UserError(f"data.cache={data.cache} is unknown: choose one of {', '.join(KINDS)}.")
    if len(data.roi_size) not in (2, 3) or min(data.roi_size) < 1:
        raise UserError(f"data.roi_size={data.roi_size} must be 2 or 3 positive numbers of voxels.")
    if data.slices is not None and (len(data.roi_size) != 2 or not data.reads_volumes):
        raise UserError(
            f"data.slices={data.slices} is for medical volumes with a data.roi_size of 2 numbers, and this is "
            f"{data.roi_size} of {type(data).__name__}. Set data.slices=null, or data.roi_size=[224,224]."
        )
    if data.spacing is not None and (len(data.spacing) != len(data.roi_size) or min(data.spacing) <= 0):
        raise UserError(f"data.spacing={data.spacing} must be {len(data.roi_size)} positive numbers in mm, or null.")
    if data.resize_to is not None and (
        data.spacing is not None or (len(data.resize_to), len(data.roi_size)) != (2, 2) or min(data.resize_to) < 1
    ):
        raise UserError(
            f"data.resize_to={data.resize_to} must be 2 positive numbers of voxels for pictures or slices "
            f"(data.roi_size={data.roi_size}) without data.spacing ({data.spacing}), or null."
        )
    if data.batch_size < 1 or data.crops_per_volume < 1 or not 0 <= data.positive_share <= 1:
        raise UserError(
            f"data.batch_size={data.batch_size} and data.crops_per_volume={data.crops_per_volume} must "
            f"be at least 1, and data.positive_share={data.positive_share} must lie in [0, 1]."
        )
    if data.num_workers != "auto" and data.num_workers < 0:
        raise UserError(f"data.num_workers={data.num_workers} must be auto, or 0 or more processes.")
    fold_alone = data.fold is not None and data.folds is None
    if (fold_alone and not data.brings_folds) or (data.folds is not None and data.fold is None):
        raise UserError(
            f"data.folds={data.folds} and data.fold={data.fold} go together: data.folds=4 data.fold=0, or -m "
            "data.folds=4 data.fold=0,1,2,3 for all of them; or neither."
        )
    if data.folds is not None and data.split is not None:
        raise UserError(
            f"data.split={data.split} and data.folds={data.folds} both say what is tested on. Set data.split=null "
            "for cross-validation, or leave data.folds out."
        )


def training_crops(data: SegmentationData) -> TrainingCrops:
    """What cuts and augments the crops of a training."""
    return TrainingCrops(
        roi_size=data.roi_size,
        num_crops=data.crops_per_volume,
        positive_share=data.positive_share,
        by_class=data.crop_centre == "class",
        augment=[transform for transform in (data.augment or {}).values() if transform is not None],
    )


def tolerances_of(tolerance: float | Mapping[str, float], *, names: Sequence[str]) -> dict[str, float]:
    """Tolerance of the normalised surface Dice by class or region, as far as `data.tolerance` gives one.

    In mm, or in voxels where a file has no spacing. UserError for other names and values.
    """
    given = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(names, tolerance)
    if unknown := [name for name in given if name not in names]:
        raise UserError(f"data.tolerance names {unknown}, but scored are {', '.join(names)}.")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(
                f"data.tolerance={tolerance} must be a number of mm from 0 on, or such numbers by class: "
                f"data.tolerance={{{name}: 1.0}}."
            )
    return {name: float(value) for name, value in given.items()}


def check_scored_names(data: SegmentationData) -> None:
    """UserError where `class_groups` or `tolerance` names a class or region that is not scored.

    Also for a name of a class or region that does not stand in one line.
    """
    if broken := [name for name in data.outputs.names if len(visible(name).splitlines()) != 1 or visible(name) != name]:
        described = Path(data.root) / "dataset.json"
        raise UserError(
            f"{described if described.is_file() else data.root}: {broken[0]!r} can't be the name of a class or region, "
            "which stands in a line of tables. Take letters, digits and signs there, in data.labels or data.regions."
        )
    data.tolerances()
    for group, members in data.class_groups.items():
        if unknown := [name for name in members if name not in data.outputs.names]:
            raise UserError(
                f"data.class_groups.{group} names {unknown}, but scored are {', '.join(data.outputs.names)}."
            )
