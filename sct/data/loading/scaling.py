"""Intensities of a whole volume brought to one scale: of a fixed range, or by mean and standard deviation.

Dictionary transforms with the key `image`, a tensor (C, *S). Values are those of MONAI's transforms of the same
settings, to the last digit; a prediction need not import MONAI for them, which takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sct.config.parts import part
from sct.errors import UserError


@part
@dataclass(frozen=True, kw_only=True)
class ScaleRange:
    """Intensities from [a_min, a_max] linearly to [b_min, b_max], as MONAI's `ScaleIntensityRanged`.

    a_min: start of the range in the file, such as Hounsfield units
    a_max: end of the range in the file
    b_min: what a_min becomes
    b_max: what a_max becomes
    clip: whether values outside the range become its ends
    """

    a_min: float
    a_max: float
    b_min: float = 0.0
    b_max: float = 1.0
    clip: bool = False

    def __post_init__(self) -> None:
        if not self.a_min < self.a_max:
            raise UserError(f"data.intensity.a_min={self.a_min} must be less than a_max={self.a_max}.")

    def in_file(self, value: float) -> float | None:
        """The intensity in the file above which a voxel has more than `value` afterwards, but for rounding.

        None where there is none: if the range is turned round, or all or no voxels have more.
        """
        if not self.b_min < self.b_max or (self.clip and not self.b_min <= value < self.b_max):
            return None
        return self.a_min + (value - self.b_min) / (self.b_max - self.b_min) * (self.a_max - self.a_min)

    def __call__(self, sample: Mapping) -> Mapping:
        """sample: `image` (C, *S) of any number format -> the same with `image` float32, in memory of its own."""
        image = (sample["image"].float() - self.a_min).div_(self.a_max - self.a_min)
        image.mul_(self.b_max - self.b_min).add_(self.b_min)
        if self.clip:
            image.clamp_(self.b_min, self.b_max)
        return {**sample, "image": image}


@part
@dataclass(frozen=True, kw_only=True)
class Standardise:
    """Mean 0 and standard deviation 1 of each channel, as MONAI's `NormalizeIntensityd` with channel_wise.

    nonzero: of the voxels that are not 0 alone; the others stay 0
    """

    nonzero: bool = False

    def __call__(self, sample: Mapping) -> Mapping:
        """sample: `image` (C, *S) of any number format -> the same with `image` float32, in memory of its own."""
        return {**sample, "image": torch.stack([self._channel(channel.float()) for channel in sample["image"]])}

    def _channel(self, channel: Tensor) -> Tensor:
        """One channel (*S); where all its voxels are equal, they become 0."""
        if not self.nonzero:
            return standardised(channel)
        tissue = channel != 0
        return channel.masked_scatter(tissue, standardised(channel[tissue])) if tissue.any() else channel


def standardised(values: Tensor) -> Tensor:
    """Values of any shape with mean 0 and standard deviation 1; 0 where all are equal."""
    std = torch.std(values, correction=0).item()
    return (values - torch.mean(values).item()) / (std or 1.0)
