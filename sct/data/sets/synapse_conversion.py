"""From raw CTs with organ labels to the files of Synapse as TransUNet prepares them.

Legend: X, Y, Z the axes of a NIfTI file; N slices, H rows, W columns of what is written.

TransUNet published no script and does not say how its slices lie, so this says it of these: slice 0 is the lowest and
the next lie towards the head, row 0 is the front of the patient, column 0 the patient's right: the picture of a
radiologist. Don't mix the two sets unless you have seen that they lie alike.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sct.data.cases import Case, LabelMap
from sct.data.check import check_cases
from sct.data.formats.base import Nifti
from sct.data.formats.nifti import turned
from sct.data.sets import btcv
from sct.data.sets.synapse import ORGANS, SLICES, TEST_LIST, TRAIN_LIST, VOLUMES
from sct.data.sets.synapse_files import write_slice, write_volume
from sct.errors import UserError
from sct.runtime.aside import aside

logger = logging.getLogger(__name__)

WINDOW_HU = (-125.0, 275.0)
# The published split: 12 test, the other 18 train.
TEST_PATIENTS = tuple(f"{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38))
TRAIN_PATIENTS = tuple(sorted({f"{n:04d}" for n in (*range(1, 11), *range(21, 41))} - set(TEST_PATIENTS)))


@dataclass(frozen=True)
class Scan:
    """A CT as it is stored: image (N, H, W) float32 in [0, 1], label uint8, spacing (3,) in mm, slices first."""

    patient: str
    image: np.ndarray
    label: np.ndarray
    spacing: np.ndarray


def convert(hu: np.ndarray, label: np.ndarray, *, affine: np.ndarray, names: Sequence[str], patient: str) -> Scan:
    """A CT (X, Y, Z) in Hounsfield units with labels, whose values `names` tells (background first)."""
    values = label_table(names)[np.rint(label).astype(np.int64)]
    image, spacing = slices_first(windowed(hu), affine=affine)
    return Scan(patient, image, slices_first(values, affine=affine)[0], spacing)


def windowed(hu: np.ndarray) -> np.ndarray:
    """Hounsfield units clipped to [-125, 275] and scaled to [0, 1], float32."""
    low, high = WINDOW_HU
    return ((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32)


def label_table(names: Sequence[str]) -> np.ndarray:
    """For every value of a labelling by `names` the value that Synapse has for it; 0 for other organs."""
    return np.array([ORGANS.index(name) + 1 if name in ORGANS else 0 for name in names], dtype=np.uint8)


def slices_first(voxels: np.ndarray, *, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) of any orientation as (N, H, W), towards head, back and left; and their spacing (3,)."""
    view, affine = turned(voxels[None], affine=affine, axes="SPL")
    return np.ascontiguousarray(view[0]), np.linalg.norm(affine[:3, :3], axis=0)


def write_set(folder: Path, scans: Iterable[Scan], *, train: Collection[str], test: Collection[str]) -> None:
    """Write slices of the patients of `train`, volumes of those of `test`, and both lists, into `folder`."""
    lines: dict[str, list[str]] = {TRAIN_LIST: [], TEST_LIST: []}
    for name in (SLICES, VOLUMES):
        (folder / name).mkdir(parents=True)
    for scan in scans:
        stem = f"case{scan.patient}"
        if scan.patient in train:
            for index, (image, label) in enumerate(zip(scan.image, scan.label, strict=True)):
                lines[TRAIN_LIST].append(f"{stem}_slice{index:03d}")
                path = folder / SLICES / f"{lines[TRAIN_LIST][-1]}.npz"
                write_slice(path, image=image, label=label, spacing=scan.spacing)
        if scan.patient in test:
            lines[TEST_LIST].append(stem)
            path = folder / VOLUMES / f"{stem}.npy.h5"
            write_volume(path, image=scan.image, label=scan.label, spacing=scan.spacing)
        shape, spacing = "x".join(map(str, scan.image.shape)), " x ".join(f"{s:.3g}" for s in scan.spacing)
        logger.info("%s: %s voxels of %s mm", stem, shape, spacing)
    for name, listed in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in listed), encoding="utf-8")


def prepare(raw: Path, out: Path, *, split: str) -> None:
    """Make the set `out` (built aside, then renamed) from the folder that holds BTCV's RawData.

    split: `published`, 18 patients train and 12 test; `all` train and test, `train` or `test` alone; or a JSON file
    with lists of patients `train` and `test`. Raises `UserError` for bad files, absent patients, or an `out` in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty. Give another folder (OUT), or delete that one.")
    by_id = {case.id: case for case in btcv.raw_cases(raw, setting="RAW")}
    train, test = shared_out(list(by_id), split=split)
    cases = [case for patient, case in by_id.items() if patient in {*train, *test}]
    names = ("background", *btcv.ORGANS)
    check_cases(cases, label_map=LabelMap(names), num_channels=1, file_format=Nifti(3), memory=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with aside(out.parent) as temporary:
        built = temporary / out.name
        write_set(built, _scans(cases, names=names), train=train, test=test)
        built.rename(out)
    logger.info("%s: slices of %d patient(s) to train on, volumes of %d to test on", out, len(train), len(test))


def shared_out(patients: Sequence[str], *, split: str) -> tuple[list[str], list[str]]:
    """Which of the patients train and which test; see `prepare`."""
    chosen = {"all": (patients, patients), "train": (patients, ()), "test": ((), patients)}
    parts = {"published": (TRAIN_PATIENTS, TEST_PATIENTS), **chosen}
    train, test = (list(part) for part in (parts[split] if split in parts else _own_lists(Path(split))))
    if absent := sorted({*train, *test} - set(patients)):
        raise UserError(
            f"RAW lacks {len(absent)} patient(s) of the split {split}: {', '.join(absent)} (it has "
            f"{', '.join(patients)}). Complete it, or give --split all, train, test or a JSON file with your own lists."
        )
    if unused := sorted(set(patients) - {*train, *test}):
        logger.warning("the split %s leaves %d patient(s) out: %s", split, len(unused), ", ".join(unused))
    return train, test


def _own_lists(path: Path) -> tuple[list[str], list[str]]:
    try:
        content = json.loads(path.read_text())
        lists = content["train"], content["test"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"--split {path}: is neither published, all, train nor test, nor a JSON file such as "
            f'{{"train": ["0005"], "test": ["0001"]}} ({type(error).__name__}: {error}).'
        ) from error
    if not all(isinstance(part, list) for part in lists):
        raise UserError(f'--split {path}: `train` and `test` must be lists of patients such as ["0005"].')
    return lists


def _scans(cases: Sequence[Case], *, names: Sequence[str]) -> Iterator[Scan]:
    file_format = Nifti(3)
    for case in cases:
        assert case.label is not None
        voxels, grid = file_format.read_image(case.image)
        label, _ = file_format.read_label(case.label)
        yield convert(voxels[0], label, affine=grid.affine, names=names, patient=case.id)
