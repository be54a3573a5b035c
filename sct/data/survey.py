"""What a data set is made of: facts of every case, faults that only the whole set shows, and tables of both.

Letters: C channels, S spatial size of a file.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sct.data.cases import Case, Grid, window_shape
from sct.data.formats.nifti import turned
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.models.grid import foreground_patches
from sct.models.patch import Extent, in_words

PERCENTILES = (0.5, 50.0, 99.5)
# voxels of an image that percentiles are taken of, evenly spread: enough for three digits
SAMPLED = 200_000
_TOLD = 5


@dataclass(frozen=True)
class CaseFacts:
    """One case as it is in its files.

    spacing in `unit` a voxel; intensities: `PERCENTILES` of every channel; volumes: of every class but the
    background, in ml where the unit is mm, else in voxels; patches: share of the patches of `patch_size` that
    hold any foreground; digest: equal for equal voxels.
    """

    id: str
    split: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    intensities: list[list[float]]
    volumes: dict[str, float]
    patches: float
    digest: str

    @property
    def voxel(self) -> float:
        """Size of a voxel, in the unit of `volumes`."""
        return voxel_size(self.spacing, unit=self.unit)


def survey_case(case: Case, *, split: str, data: SegmentationData, patch_size: Extent) -> CaseFacts:
    """Reads image and label of one case."""
    image, grid, values = read_case(case, data=data)
    return facts_of(case, image, grid, values, split=split, data=data, patch_size=patch_size)


def read_case(case: Case, *, data: SegmentationData) -> tuple[np.ndarray, Grid, np.ndarray]:
    """Image (C, *S) as in the file, its grid, and label values (*S) int64."""
    if case.label is None:
        raise UserError(
            f"{case.image}: has no label to count (data.labelled=false). sct.data is for data sets with labels; "
            "sct.train checks the images before its first step."
        )
    image, grid = data.format.read_image(case.image)
    return image, grid, data.label_map.cleared(np.rint(data.format.read_label(case.label)[0]).astype(np.int64))


def facts_of(
    case: Case,
    image: np.ndarray,
    grid: Grid,
    values: np.ndarray,
    *,
    split: str,
    data: SegmentationData,
    patch_size: Extent,
) -> CaseFacts:
    """The facts about image (C, *S) and label values (*S) of one case; patch_size: along the axes of a window."""
    voxel = voxel_size(grid.spacing.tolist(), unit=grid.unit)
    counts = np.bincount(values.ravel(), minlength=len(data.label_map))
    patch = window_shape(patch_size, num_dims=values.ndim)
    lying = values if data.axes is None else turned(values[None], affine=grid.affine, axes=data.axes)[0][0]
    patches = foreground_patches(torch.from_numpy(np.ascontiguousarray(lying)).unsqueeze(0), patch_size=patch)
    step = max(1, image[0].size // SAMPLED)
    return CaseFacts(
        id=case.name,
        split=split,
        shape=grid.shape,
        spacing=tuple(round(float(size), 4) for size in grid.spacing),
        unit=grid.unit,
        intensities=[np.percentile(channel.ravel()[::step], PERCENTILES).tolist() for channel in image],
        volumes={name: counts[value] * voxel for value, name in enumerate(data.label_map.names) if value},
        patches=patches.float().mean().item(),
        digest=hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest(),
    )


def voxel_size(spacing: Sequence[float], *, unit: str) -> float:
    """In ml where the unit is mm, else 1 voxel."""
    # a litre has 1000 ml of 1000 cubic mm
    return math.prod(spacing) / 1000 if unit == "mm" else 1.0


def set_faults(facts: Sequence[CaseFacts], *, resampled: bool) -> list[str]:
    """What is wrong with the set as a whole, a line for each fault, with the cases it is about and a remedy.

    The same image twice; where images are not resampled, spacings that differ from most others'; a class that no
    training case has.
    """
    faults = []
    by_digest: dict[str, list[CaseFacts]] = {}
    for case in facts:
        by_digest.setdefault(case.digest, []).append(case)
    for same in by_digest.values():
        if len(same) > 1:
            parts = {case.split for case in same}
            over = f", over {' and '.join(sorted(parts))}: scores are too good" if len(parts) > 1 else ""
            faults.append(f"{names(same)} have the same image{over}. Keep one of them.")
    usual, number = Counter(case.spacing for case in facts).most_common(1)[0]
    # of slices and volumes of one set, the axes of a slice
    axes = min(len(case.spacing) for case in facts)
    others = [case for case in facts if not np.allclose(case.spacing[-axes:], usual[-axes:], rtol=0.02)]
    if others and not resampled:
        shown = ", ".join(f"{case.id} {case.spacing}" for case in others[:_TOLD])
        faults.append(
            f"{len(others)} case(s) have another spacing than the {number} of {usual} {facts[0].unit}: {shown}"
            f"{' ...' if len(others) > _TOLD else ''}. Set data.spacing to resample all to one, or leave them out."
        )
    for name in facts[0].volumes:
        if not any(case.volumes[name] for case in facts if case.split == "train"):
            faults.append(f"No training case has {name}: it can't be learnt. Choose another split, or drop the class.")
    return faults


def names(cases: Sequence[CaseFacts]) -> str:
    listed = [f"{case.id} ({case.split})" for case in cases[:_TOLD]]
    return ", ".join(listed) + (f" and {len(cases) - _TOLD} more" if len(cases) > _TOLD else "")


def describe(facts: Sequence[CaseFacts], *, patch_size: Extent, num_channels: int) -> dict[str, list[list[str]]]:
    """Tables by title, the first line of each being its head: cases, channels, classes."""
    splits = {split: [case for case in facts if case.split == split] for split in ("train", "val", "test")}
    unit = facts[0].unit
    size = "ml" if unit == "mm" else "voxels"
    head = ["", "cases", "shape (min, median, max)", f"spacing {unit} (min, median, max)"]
    return {
        "Cases": [
            [*head, f"patches of {in_words(patch_size)} with foreground"],
            *(case_row(split, own) for split, own in {**splits, "all": list(facts)}.items() if own),
        ],
        "Intensities": [
            ["channel", *(f"p{p:g}, median of cases" for p in PERCENTILES), "lowest p0.5", "highest p99.5"],
            *(channel_row([case.intensities[number] for case in facts], number) for number in range(num_channels)),
        ],
        "Classes": [
            ["class", "cases", f"{size} (min, median, max where present)", "share of foreground"],
            *class_rows(facts),
        ],
    }


def case_row(split: str, cases: Sequence[CaseFacts]) -> list[str]:
    patches = f"{np.mean([case.patches for case in cases]):.1%}"
    shapes, spacings = ranges([case.shape for case in cases], 0), ranges([case.spacing for case in cases], 2)
    return [split, str(len(cases)), shapes, spacings, patches]


def ranges(values: Sequence[Sequence[float]], digits: int) -> str:
    """Minimum, median and maximum along every axis, of slices and volumes together along those of a slice."""
    axes = min(len(value) for value in values)
    table = np.array([value[-axes:] for value in values], dtype=np.float64)
    rows = (table.min(axis=0), np.median(table, axis=0), table.max(axis=0))
    return ", ".join("x".join(f"{value:.{digits}f}" for value in row) for row in rows)


def channel_row(percentiles: Sequence[Sequence[float]], number: int) -> list[str]:
    table = np.array(percentiles)
    return [str(number), *(f"{v:.4g}" for v in (*np.median(table, axis=0), table[:, 0].min(), table[:, -1].max()))]


def class_rows(facts: Sequence[CaseFacts]) -> list[list[str]]:
    total = sum(sum(case.volumes.values()) for case in facts)
    rows = []
    for name in facts[0].volumes:
        present = [case.volumes[name] for case in facts if case.volumes[name]]
        size = f"{min(present):.4g}, {np.median(present):.4g}, {max(present):.4g}" if present else "-"
        rows.append([name, str(len(present)), size, f"{sum(present) / total:.1%}" if total else "-"])
    return rows


def markdown(tables: Mapping[str, list[list[str]]]) -> str:
    """The tables one under another."""
    parts = []
    for title, (head, *rows) in tables.items():
        lines = [head, ["---"] * len(head), *rows]
        parts.append(f"## {title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines))
    return "\n".join(parts)
