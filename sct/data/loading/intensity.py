"""Normalisation by the name of a channel, as nnU-Net does it, and what it takes from the training cases together.

Letters: C channels, S spatial size.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import FileFormat
from sct.data.loading.cache import file_signature
from sct.errors import UserError
from sct.runtime.files import remembered, write_remembered
from sct.runtime.progress import counted

CLIPPED = (0.5, 99.5)
SMALLEST = 1e-8  # of what is divided by
# foreground voxels of all cases that percentiles are taken of, evenly spread over each case
_SAMPLED = 20_000_000
_RULES = 1  # raise when statistics are measured in another way than before


class Statistics(NamedTuple):
    """Of the foreground voxels of one channel over all training cases; low and high: `CLIPPED` percentiles."""

    mean: float
    std: float
    low: float
    high: float


def is_ct(channel: str) -> bool:
    """Whether a channel of this name is normalised by the statistics of the training cases."""
    return channel.casefold() == "ct"


@dataclass(frozen=True)
class ByChannelName:
    """Normalises each channel of a whole volume by its name, as nnU-Net does; a dictionary transform, key `image`.

    CT: clipped to and standardised by `statistics` · noNorm: as it is · rescale_to_0_1: its own range to [0, 1]
    rgb_to_0_1: [0, 255] to [0, 1] · zscore, and all other names: standardised by its own mean and standard deviation
    statistics: of every channel, None where the name is not CT
    """

    channels: tuple[str, ...]
    statistics: tuple[Statistics | None, ...]

    def __call__(self, sample: Mapping) -> Mapping:
        pairs = zip(sample["image"], self.channels, self.statistics, strict=True)
        return {**sample, "image": torch.stack([normalised(*pair) for pair in pairs])}


def normalised(image: Tensor, name: str, statistics: Statistics | None) -> Tensor:
    """One channel (*S) as its name says."""
    name, image = name.casefold(), image.float()
    if is_ct(name):
        assert statistics is not None, "measured before, or given by the run"
        return (image.clamp(statistics.low, statistics.high) - statistics.mean) / max(statistics.std, SMALLEST)
    if name == "nonorm":
        return image
    if name == "rgb_to_0_1":
        return image / 255
    if name == "rescale_to_0_1":
        low, high = image.min(), image.max()
        return (image - low) / (high - low).clamp_min(SMALLEST)
    std, mean = torch.std_mean(image, correction=0)
    return (image - mean) / std.clamp_min(SMALLEST)


def measure(
    cases: Sequence[Case],
    *,
    channels: Sequence[str],
    label_map: LabelMap,
    file_format: FileFormat,
    memory: Path | None,
    may_remember: bool = True,
) -> list[Statistics | None]:
    """The statistics of every channel whose name asks for them, over `cases`; UserError where no voxel is foreground.

    Mean and standard deviation are of all foreground voxels, percentiles of evenly spread ones where there are many.
    Files that can't be read are left out: the check names them. memory: a JSON file that keeps what was measured, as
    long as no file changes; may_remember: write to it.
    """
    wanted = [number for number, name in enumerate(channels) if is_ct(name)]
    if not wanted:
        return [None] * len(channels)
    key = _key(cases, wanted=wanted, label_map=label_map, file_format=file_format)
    known = remembered(memory) or {}
    if key is not None and key in known:
        found = [Statistics(*row) for row in known[key]]
    else:
        found = _over(_foregrounds(cases, wanted=wanted, label_map=label_map, file_format=file_format), cases=cases)
        if memory and key is not None and may_remember:
            write_remembered(memory, {**known, key: found})
    by_number = dict(zip(wanted, found, strict=True))
    return [by_number.get(number) for number in range(len(channels))]


def _foregrounds(
    cases: Sequence[Case], *, wanted: Sequence[int], label_map: LabelMap, file_format: FileFormat
) -> Iterable[np.ndarray]:
    """Intensities (channels wanted, foreground voxels) of every case."""
    for case in counted(cases, what="measured"):
        assert case.label is not None
        try:
            image = file_format.read_image(case.image)[0]
            label = label_map.cleared(np.rint(file_format.read_label(case.label)[0]))
        except UserError:
            continue
        if image.shape[1:] == label.shape and max(wanted) < len(image):
            yield image[list(wanted)][:, label > 0]


def _over(foregrounds: Iterable[np.ndarray], *, cases: Sequence[Case]) -> list[Statistics]:
    """Statistics of every row of the arrays (rows, voxels) together."""
    share = _SAMPLED // len(cases)
    count, total, squares, samples = 0, np.zeros(1), np.zeros(1), []
    shift: np.ndarray | None = None
    for values in foregrounds:
        if not values.size:
            continue
        if shift is None:
            # about the mean: squares of large numbers would lose the digits of small differences
            shift = values.mean(axis=1, dtype=np.float64)
        centred = values - shift[:, None]
        count, total, squares = count + values.shape[1], total + centred.sum(axis=1), squares + (centred**2).sum(axis=1)
        samples.append(values[:, :: -(-values.shape[1] // share)])
    if shift is None:
        raise UserError(
            "No training case has a foreground voxel to take the normalisation of CT from. Correct the labels, or set "
            "data.intensity."
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    low, high = np.percentile(np.concatenate(samples, axis=1), CLIPPED, axis=1)
    rows = zip(mean + shift, std, low, high, strict=True)
    return [Statistics(*(float(value) for value in row)) for row in rows]


def _key(cases: Sequence[Case], *, wanted: Sequence[int], label_map: LabelMap, file_format: FileFormat) -> str | None:
    """What has to be unchanged for what was measured to hold; None where a file is missing."""
    files = [path for case in cases for path in file_format.files_of(case)]
    if not all(path.exists() for path in files):
        return None
    described = [_RULES, list(wanted), label_map.ignored, [file_signature(path) for path in files]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
