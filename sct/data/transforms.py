"""The deterministic part (file to network grid) and the random part (grid to training crops) of the data.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Randomizable, Spacing

from sct.data.cases import Case
from sct.data.nifti import Grid, read_voxels, to_ras

DictTransform = Callable[[Mapping], Mapping]


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid.

    image (C, *S) float32 · label (*S) uint8 or None · foreground: int32 flat indices of voxels with label > 0
    affine (4, 4) float64 of this grid · source: the grid of the image file
    """

    image: np.ndarray
    label: np.ndarray | None
    foreground: np.ndarray | None
    affine: np.ndarray
    source: Grid


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Switch MONAI's MetaTensor off for the time of the block: it is slow and not needed in training."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


@dataclass(frozen=True)
class Preprocess:
    """Read a case, turn it to RAS, resample, normalise, crop to the foreground, pad to at least `roi_size`.

    roi_size: 2 or 3 numbers, voxels; 2-D images keep their orientation
    spacing: mm along R, A, S, or None to keep the file's
    intensity: a MONAI dictionary transform on the key `image`, a tensor (C, *S)
    crop_above: keep the box of voxels in which any channel exceeds this *normalised* value; None keeps all
    Padding takes the minimum of each channel (air in CT) and label 0, evenly on both sides.
    """

    roi_size: Sequence[int]
    spacing: Sequence[float] | None
    intensity: DictTransform
    crop_above: float | None

    def __call__(self, case: Case) -> Prepared:
        spatial_dims = len(self.roi_size)
        voxels, source = read_voxels(case.image, spatial_dims=spatial_dims)
        image, affine = self._resample(voxels, grid=source, mode="bilinear")
        with plain_tensors():
            image = np.asarray(self.intensity({"image": torch.from_numpy(image)})["image"], dtype=np.float32)
        label = None
        if case.label is not None:
            values, grid = read_voxels(case.label, spatial_dims=spatial_dims)
            label = np.rint(self._resample(values, grid=grid, mode="nearest")[0][0]).astype(np.uint8)
        start, stop = self._box(image)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        lack = [max(0, roi - (b - a)) for roi, a, b in zip(self.roi_size, start, stop, strict=True)]
        pads = [(missing // 2, missing - missing // 2) for missing in lack]
        image = _pad(image[(slice(None), *box)], pads=pads)
        offset = start - np.array([before for before, _ in pads])
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :spatial_dims] @ offset
        foreground = None
        if label is not None:
            label = np.ascontiguousarray(np.pad(label[box], pads))
            foreground = np.flatnonzero(label).astype(np.int32)
        return Prepared(image, label, foreground, affine, source)

    def _resample(self, voxels: np.ndarray, *, grid: Grid, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """Turn to RAS and resample; returns voxels (C, *S) and their affine (4, 4)."""
        affine = grid.affine
        if len(grid.shape) == 3:
            voxels, affine = to_ras(voxels, affine=affine)
        if self.spacing is None:
            return np.ascontiguousarray(voxels), affine
        resample = Spacing(pixdim=self.spacing, mode=mode, padding_mode="border", dtype=np.float32)
        tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(voxels)), affine=torch.from_numpy(affine))
        resampled = resample(tensor)
        assert isinstance(resampled, MetaTensor)
        return resampled.as_tensor().numpy(), resampled.affine.numpy().astype(np.float64)

    def _box(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First voxel and the one after the last of the foreground box, (len(S),) each."""
        shape = np.array(image.shape[1:])
        if self.crop_above is None:
            return np.zeros_like(shape), shape
        mask = (image > self.crop_above).max(axis=0)
        if not mask.any():
            return np.zeros_like(shape), shape
        rows = [np.moveaxis(mask, axis, 0).reshape(n, -1).max(axis=1) for axis, n in enumerate(shape)]
        places = [np.flatnonzero(row) for row in rows]
        return np.array([p[0] for p in places]), np.array([p[-1] + 1 for p in places])


def _pad(image: np.ndarray, *, pads: list[tuple[int, int]]) -> np.ndarray:
    if not any(before or after for before, after in pads):
        return np.ascontiguousarray(image)
    return np.stack([np.pad(channel, pads, constant_values=channel.min()) for channel in image])


@dataclass(frozen=True)
class TrainingCrops:
    """Cut random crops out of a prepared case and augment each.

    With probability `positive_share` a crop is centred on a random foreground voxel (moved inwards where it
    would leave the volume), otherwise it lies anywhere, uniformly. Then the `augment` transforms run in turn.
    """

    roi_size: Sequence[int]
    num_crops: int
    positive_share: float
    augment: Sequence[DictTransform]

    def __call__(self, prepared: Prepared, *, entropy: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Every random draw follows from `entropy`; returns image (C, *S) float32 and label (*S) int64."""
        # A stream for each transform: switching one off leaves the draws of the others as they were.
        streams = np.random.SeedSequence(list(entropy)).spawn(1 + len(self.augment))
        rng = np.random.default_rng(streams[0])
        for transform, stream in zip(self.augment, streams[1:], strict=True):
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(stream.generate_state(1)[0]))
        with plain_tensors():
            return [self._crop(prepared, rng) for _ in range(self.num_crops)]

    def _crop(self, prepared: Prepared, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        assert prepared.label is not None
        assert prepared.foreground is not None
        room = np.array(prepared.image.shape[1:]) - np.array(self.roi_size)
        positive = rng.random() < self.positive_share
        if positive and prepared.foreground.size:
            flat = prepared.foreground[rng.integers(prepared.foreground.size)]
            centre = np.array(np.unravel_index(int(flat), prepared.image.shape[1:]))
            start = np.clip(centre - np.array(self.roi_size) // 2, 0, room)
        else:
            start = rng.integers(0, room + 1)
        box = tuple(slice(a, a + size) for a, size in zip(start, self.roi_size, strict=True))
        # The copies also take the crop out of read-only memory maps.
        sample: Mapping = {
            "image": torch.from_numpy(np.array(prepared.image[(slice(None), *box)])),
            "label": torch.from_numpy(np.array(prepared.label[box])[None]),
        }
        for transform in self.augment:
            sample = transform(sample)
        return {
            "image": torch.as_tensor(sample["image"], dtype=torch.float32).contiguous(),
            "label": torch.as_tensor(sample["label"])[0].long().contiguous(),
        }
