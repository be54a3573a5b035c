"""The start-up check: every file of every case is read once and all faults are listed in one message."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sct.data.cases import TOLERANCE, Case, Grid, LabelMap, Volume
from sct.data.formats.base import FileFormat
from sct.data.loading.cache import describe, file_signature
from sct.data.loading.transforms import Preprocess
from sct.errors import UserError
from sct.runtime.files import remembered, write_remembered
from sct.runtime.progress import counted

if TYPE_CHECKING:  # the data set checks its files by this module
    from sct.data.module import SegmentationData

logger = logging.getLogger(__name__)

_MAX_TOLD = 20
_RULES = 3  # raise when the check finds more than before
_MOST_VOXELS = 2**33  # after resampling
_MOST_GROWTH = 1e5  # of the number of voxels by resampling, or of its inverse
_LARGE = 1e6  # no scanner writes intensities beyond this


def check_cases(
    cases: Sequence[Case],
    *,
    label_map: LabelMap,
    num_channels: int,
    file_format: FileFormat,
    preprocess: Preprocess | None = None,
    memory: Path | None,
    may_remember: bool = True,
) -> None:
    """Read all cases and raise one `UserError` that lists every bad file with reason and remedy.

    preprocess: what an image goes through before a network sees it; the result is checked too
    memory: a JSON file in which good cases are remembered by path, size and time; None reads all every time
    may_remember: write the newly read ones into it
    """
    known = set(remembered(memory) or ())
    expected = [_RULES, list(label_map.names), num_channels, describe(preprocess or file_format)]
    faults: list[str] = []
    good: list[str] = []
    remarks: dict[str, list[Path]] = {}
    keys = {case: _key(case, expected, file_format) for case in cases}
    new = [case for case in cases if keys[case] not in known]
    for case in counted(new, what="checked"):
        key = keys[case]
        found = find_faults(
            case, label_map=label_map, num_channels=num_channels, file_format=file_format, preprocess=preprocess
        )
        faults += found
        if not found and (remark := file_format.remark(case.image)) is not None:
            remarks.setdefault(remark, []).append(case.image)
        if not found and key is not None:
            good.append(key)
    if memory and good and may_remember:
        write_remembered(memory, sorted(known | set(good)))
    for remark, images in remarks.items():
        logger.info("%s%s: %s", images[0], f" and {len(images) - 1} more" if len(images) > 1 else "", remark)
    logger.info("checked %d cases, %d of them for the first time", len(cases), len(new))
    if faults:
        listed = "\n  ".join(faults[:_MAX_TOLD])
        more = f"\n  ... and {len(faults) - _MAX_TOLD} more" if len(faults) > _MAX_TOLD else ""
        labelled = any(case.label is not None for case in cases)
        remedy = "take these cases out (data.exclude=[ID, ...])" if labelled else "leave these images out"
        raise UserError(
            f"The data check found {len(faults)} fault(s) in {len(cases)} cases:\n  {listed}{more}\n"
            f"Mend the files, or {remedy}."
        )


def find_faults(
    case: Case,
    *,
    label_map: LabelMap,
    num_channels: int,
    file_format: FileFormat,
    preprocess: Preprocess | None = None,
) -> list[str]:
    """What is wrong with one case, a line for each fault; every line names file, reason and remedy.

    An image and its label may be in one file, whose own faults are told once.
    """
    faults: list[str] = []
    image_grid = None
    try:
        image, image_grid = file_format.read_image(case.image)
    except UserError as error:
        faults.append(str(error))
    else:
        files = _files_of_channels(case.image, num_channels=len(image), file_format=file_format)
        raw = _image_faults(case.image, image=image, grid=image_grid, num_channels=num_channels, files=files)
        if preprocess is not None and not raw:
            raw = _size_faults(case.image, grid=image_grid, preprocess=preprocess)
            raw = raw or _value_faults(case.image, image=image, preprocess=preprocess, files=files)
        faults += raw
        del image
    if case.label is None:
        return faults
    if case.label != case.image and not case.label.exists():
        return [*faults, f"{case.image}: has no label; expected {case.label}. Add it or remove the image."]
    try:
        label, label_grid = file_format.read_label(case.label)
    except UserError as error:
        return faults if str(error) in faults else [*faults, str(error)]
    faults += _label_faults(case.label, label=label, label_map=label_map)
    if image_grid is not None:
        faults += _grid_faults(case.label, label=label_grid, image=image_grid)
    return faults


def load_new(case: Case, *, data: SegmentationData, file_format: FileFormat | None = None) -> Volume:
    """An image to predict as a network sees it; UserError that tells all that is wrong with its file.

    The file is read once. What `find_faults` finds in an image, in less time and memory: values after normalisation are
    looked at on the network's grid, which has fewer of them, unless the file has values that no scanner writes.
    file_format: what reads the image, where that is not the data set's own format
    """
    file_format = file_format or data.format
    preprocess = replace(data.preprocess, file_format=file_format)
    values = ""

    def inspect(image: np.ndarray, grid: Grid) -> None:
        nonlocal values
        files = _files_of_channels(case.image, num_channels=len(image), file_format=file_format)
        faults = _image_faults(case.image, image=image, grid=grid, num_channels=data.num_channels, files=files)
        faults = faults or _size_faults(case.image, grid=grid, preprocess=preprocess)
        if not faults and not _all_usual(image):
            floats = image.astype(np.float32)
            faults = _value_faults(case.image, image=floats, preprocess=preprocess, files=files)
        if faults:
            raise UserError("\n".join(faults))
        values = _range(image)

    prepared = preprocess(case, inspect=inspect)
    if not np.isfinite(prepared.image).all():
        raise UserError(_not_finite(case.image, values=values))
    return prepared.volume()


def _files_of_channels(image: Path, *, num_channels: int, file_format: FileFormat) -> list[Path]:
    """The file that holds each channel of an image."""
    files = file_format.files(image)
    return files if len(files) == num_channels else [image] * num_channels


def _image_faults(path: Path, *, image: np.ndarray, grid: Grid, num_channels: int, files: Sequence[Path]) -> list[str]:
    faults = []
    if grid.num_channels != num_channels:
        volume = " A volume of slices is read with data.slices=axial." if len(grid.shape) == 2 else ""
        faults.append(
            f"{path}: has {grid.num_channels} channel(s), expected {num_channels}. Correct the file or data.channels."
            f"{volume}"
        )
    bad: Counter[Path] = Counter()
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        for file, channel in zip(files, image, strict=True):
            bad[file] += int((~np.isfinite(channel)).sum())
    faults += [
        f"{file}: has {number} intensities that are NaN or infinite. Replace them in the file."
        for file, number in bad.items()
        if number
    ]
    if not np.isfinite(grid.affine).all() or np.linalg.matrix_rank(grid.affine[:3, :3]) < 3:
        faults.append(
            f"{path}: has spacing {grid.spacing.tolist()}, not positive along every axis. Correct its affine."
        )
    return faults


def _size_faults(path: Path, *, grid: Grid, preprocess: Preprocess) -> list[str]:
    """Whether resampling would make an image of a size that no scan has: the unit in its header is then wrong."""
    if preprocess.spacing is None:
        return []
    shape = preprocess.largest_shape(grid).astype(np.float64)
    growth = np.prod(grid.spacing[-len(preprocess.spacing) :]) / np.prod(preprocess.spacing)
    if shape.prod() <= _MOST_VOXELS and 1 / _MOST_GROWTH <= growth <= _MOST_GROWTH:
        return []
    return [
        f"{path}: has {_times(grid.shape)} voxels of {_times(grid.spacing.round(6))} {grid.unit}, which "
        f"data.spacing={preprocess.spacing} makes {_times(shape.astype(np.int64))} voxels. Correct the spacing, or the "
        "unit of length, in its header."
    ]


def _times(numbers: Iterable[object]) -> str:
    return " x ".join(map(str, numbers))


def _value_faults(path: Path, *, image: np.ndarray, preprocess: Preprocess, files: Sequence[Path]) -> list[str]:
    """Whether an image whose voxels are finite is still so after normalisation, and still shows something."""
    with np.errstate(all="ignore"):
        # in the order of memory: files have the first axis fastest, and turning a CT takes a second
        normalised = preprocess.normalised(image.copy(order="K"))
    if not np.isfinite(normalised).all():
        return [_not_finite(path, values=_range(image))]
    for number, (channel, new) in enumerate(zip(image, normalised, strict=True)):
        if _all_usual(channel):
            continue
        kept = np.abs(channel) <= _LARGE
        if kept.any() and np.ptp(channel[kept]) > 0 and np.ptp(new[kept]) == 0:
            return [
                f"{files[number]}: channel {number} is one constant after normalisation (data.intensity): "
                f"{_range(image)}"
            ]
    return []


def _all_usual(image: np.ndarray) -> bool:
    """Whether all values of an image without NaN are such as a scanner writes."""
    return bool(image.min() >= -_LARGE and image.max() <= _LARGE)


def _range(image: np.ndarray) -> str:
    return f"its values go from {image.min():.4g} to {image.max():.4g}. Replace the values that stand for nothing."


def _not_finite(path: Path, *, values: str) -> str:
    return f"{path}: is not finite after normalisation (data.intensity): {values}"


def _label_faults(path: Path, *, label: np.ndarray, label_map: LabelMap) -> list[str]:
    values = np.unique(label)
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        shown = [float(v) for v in values if not np.isfinite(v) or v != np.rint(v)][:5]
        return [
            f"{path}: has label values that are no integers ({shown} ...). It was interpolated: restore the original."
        ]
    unknown = [int(v) for v in values if not 0 <= v < label_map.num_values]
    if unknown:
        more = ("(ignored)",) if label_map.has_ignored else ()
        names = ", ".join(f"{value} {name}" for value, name in enumerate((*label_map.names, *more)))
        return [
            f"{path}: has unknown label value(s) {unknown[:10]}; known are {names}. Correct the file or data.labels."
        ]
    return []


def _grid_faults(path: Path, *, label: Grid, image: Grid) -> list[str]:
    if label.shape != image.shape:
        return [
            f"{path}: the label has shape {label.shape}, but its image {image.shape}. Resample the label to the image."
        ]
    distance = image.distance(label)
    if not distance <= TOLERANCE * image.spacing.min():
        return [
            f"{path}: lies {distance:.2f} mm away from its image (spacing {label.spacing.round(3).tolist()} "
            f"against {image.spacing.round(3).tolist()} mm): the affines differ. Copy the image's affine if "
            "the voxels belong together, otherwise resample the label."
        ]
    return []


def _key(case: Case, expected: list, file_format: FileFormat) -> str | None:
    """What has to be unchanged for an old check to hold; None where a file is missing."""
    if not case.image.exists():
        return None
    files = file_format.files_of(case)
    if not all(path.exists() for path in files):
        return None
    return json.dumps([expected, [file_signature(path) for path in files]])
