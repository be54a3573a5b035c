"""The deterministic part (file to network grid) and the random part (grid to training crops) of the data.

Letters: C channels, S spatial size (2 or 3 numbers).
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from sct.data.cases import Box, Case, Grid, Volume, whole_box, window_shape
from sct.data.formats.base import FileFormat
from sct.data.formats.nifti import turned
from sct.data.loading.boxes import box_above, box_of, in_rows
from sct.data.loading.resample import resample
from sct.data.loading.scaling import ScaleRange

DictTransform = Callable[[Mapping], Mapping]

# Of a range of intensities: scaled in float32, a value may be off by less.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Foreground:
    """The voxels of classes other than the background as flat indices, int32, found once to centre crops on them.

    voxels (V,): in their order in memory · by_class (V,): of label 1 first, then of 2, ...
    sizes (number of labels,): how many have the label 0 (none), 1, 2, ...
    """

    voxels: np.ndarray
    by_class: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, label: np.ndarray, *, ignored: int | None = None) -> "Foreground":
        """label (*S), whole numbers from 0; the value `ignored` is of no class."""
        voxels = np.flatnonzero(label if ignored is None else (label > 0) & (label != ignored)).astype(np.int32)
        values = label.reshape(-1)[voxels]
        return cls(voxels, voxels[np.argsort(values, kind="stable")], np.bincount(values))

    def draw(self, rng: np.random.Generator, *, by_class: bool) -> int:
        """One voxel: any of all, or, `by_class`, any of a class that is drawn first from those with a voxel."""
        if not by_class:
            return int(self.voxels[rng.integers(self.voxels.size)])
        drawn = rng.choice(np.flatnonzero(self.sizes))
        return int(self.by_class[self.sizes[:drawn].sum() + rng.integers(self.sizes[drawn])])


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid.

    image (C, *S) float32 · label (*S) uint8, int32 above 255, or None · foreground: where a class is, or None
    affine (4, 4) float64 of this grid · source: the grid of the image file
    """

    image: np.ndarray
    label: np.ndarray | None
    foreground: Foreground | None
    affine: np.ndarray
    source: Grid

    def volume(self, *, copied: bool = False) -> Volume:
        """As tensors; `copied`: in memory of their own, so that whoever writes to them leaves this as it is."""
        return Volume(
            image=torch.tensor(self.image) if copied else torch.from_numpy(self.image),
            label=None if self.label is None else torch.tensor(self.label, dtype=torch.int64),
            affine=self.affine,
            source_shape=self.source.shape,
            source_affine=self.source.affine,
        )


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Switch MONAI's MetaTensor off for the time of the block: it is slow and not needed in training."""
    # not imported here: that takes seconds, and another thread may be at it
    meta = sys.modules.get("monai.data.meta_obj")
    if meta is None or not hasattr(meta, "MetaObj"):  # no transform of MONAI was made; the last of the module's names
        yield
        return
    before = meta.get_track_meta()
    meta.set_track_meta(False)
    try:
        yield
    finally:
        meta.set_track_meta(before)


@dataclass(frozen=True)
class Preprocess:
    """Read a case, turn it, resample or resize, normalise, crop to the foreground, pad to `roi_size`.

    roi_size: 3 numbers, voxels; or 2, and then whatever acts on places acts within a picture, or within a slice of a
    volume, whose first axis leads from slice to slice
    axes: where the axes of a volume lead after it was turned, as in `turned`; None leaves an image as its file has it
    spacing: mm along the axes (of 2 numbers: along the last two), or None to keep the file's
    resize_to: voxels of the last two axes, whatever the spacing; images with antialiasing, labels nearest
    intensity: a dictionary transform on the key `image`, a tensor (C, *S), as MONAI's
    crop_above: keep the box of voxels in which any channel exceeds this *normalised* value; None keeps all
    zero_background: keep the box of voxels that are not 0 in every channel, before `intensity`, which leaves 0 at 0
    ignored: label value that is of no class, see `LabelMap`
    Padding takes the minimum of each channel (air in CT), 0 with `zero_background`, and label 0, evenly on both sides.
    """

    roi_size: Sequence[int]
    spacing: Sequence[float] | None
    intensity: DictTransform
    crop_above: float | None
    file_format: FileFormat
    axes: str | None
    resize_to: Sequence[int] | None = None
    zero_background: bool = False
    ignored: int | None = None

    def __call__(self, case: Case, *, inspect: Callable[[np.ndarray, Grid], None] | None = None) -> Prepared:
        """A case as the network sees it; `inspect` gets the voxels (C, *S) as they were read and their grid first."""
        voxels, source = self.file_format.read_stored(case.image)
        if inspect is not None:
            inspect(voxels, source)
        num_dims = len(source.shape)
        least = self._least_in_file()
        image, affine, kept = self._resample(voxels, grid=source, mode="bilinear", only_above=least)
        if least is not None and not self._has_tissue(image):  # then nothing is cropped
            image, affine, kept = self._resample(voxels, grid=source, mode="bilinear")
        del voxels  # what follows takes the memory
        mask = self._tissue(image)
        image = self.normalised(image)
        label = None
        if case.label is not None:
            values, grid = self.file_format.read_label(case.label)
            whole, _, _ = self._resample(values[None], grid=grid, mode="nearest")
            label = smallest_integers(np.rint(whole[0][kept]))
        if self.crop_above is not None:
            mask &= (image > self.crop_above).max(axis=0)
        start, stop = box_of(mask)
        tissue = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        window = window_shape(self.roi_size, num_dims=num_dims)
        lack = [max(0, roi - (b - a)) for roi, a, b in zip(window, start, stop, strict=True)]
        pads = [(missing // 2, missing - missing // 2) for missing in lack]
        image = _pad(image[(slice(None), *tissue)], pads=pads, value=0.0 if self.zero_background else None)
        offset = [edge.start + a - before for edge, a, (before, _) in zip(kept, start, pads, strict=True)]
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :num_dims] @ offset
        foreground = None
        if label is not None:
            label = np.ascontiguousarray(np.pad(label[tissue], pads))
            foreground = Foreground.of(label, ignored=self.ignored)
        return Prepared(image, label, foreground, affine, source)

    def normalised(self, image: np.ndarray) -> np.ndarray:
        """Intensities (C, *S) as the network sees them, float32."""
        with plain_tensors():
            return np.asarray(self.intensity({"image": torch.from_numpy(image)})["image"], dtype=np.float32)

    def largest_shape(self, grid: Grid) -> np.ndarray:
        """Voxels along every axis before cropping and padding, at most, (len(S),)."""
        shape, spacing = np.array(grid.shape), grid.spacing
        if self.axes is not None:
            view, affine = turned(np.empty((1, *grid.shape), dtype=np.bool_), affine=grid.affine, axes=self.axes)
            shape, spacing = np.array(view.shape[1:]), np.linalg.norm(affine[:3, :3], axis=0)
        if self.resize_to is not None:
            shape[-2:] = self.resize_to
        if self.spacing is None:
            return shape
        resampled = np.arange(len(shape)) >= len(shape) - len(self.spacing)
        shape[resampled] = np.ceil((shape * spacing)[resampled] / self.spacing) + 1
        return shape

    def _resample(
        self, voxels: np.ndarray, *, grid: Grid, mode: str, only_above: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, Box]:
        """Turn and resample or resize; voxels (C, *S) float32, the affine (4, 4) of the whole grid, and the box of it.

        only_above: what lies outside of the box of voxels above this value may be left out
        """
        affine = grid.affine
        if self.axes is not None:
            voxels, affine = turned(voxels, affine=affine, axes=self.axes)
        if self.resize_to is not None:
            matrix = affine @ resized_to_source(voxels.shape[1:], size=self.resize_to)
            return (
                resize(voxels, size=self.resize_to, mode=mode),
                matrix,
                whole_box((*voxels.shape[1:-2], *self.resize_to)),
            )
        within = None if only_above is None else box_above(voxels, only_above)
        if self.spacing is None:
            box = within or whole_box(voxels.shape[1:])
            return in_rows(voxels[(slice(None), *box)]), affine, box
        # MONAI takes -1 for the file's own spacing.
        pixdim = [*[-1.0] * (len(grid.shape) - len(self.spacing)), *self.spacing]
        return resample(voxels, affine=affine, spacing=pixdim, mode=mode, within=within)

    def _least_in_file(self) -> float | None:
        """A voxel of the file that is not above this is not above `crop_above` either, nor is what is mixed of such.

        None where that depends on other voxels.
        """
        if self.crop_above is None or self.zero_background or not isinstance(self.intensity, ScaleRange):
            return None
        least = self.intensity.in_file(self.crop_above)
        return None if least is None else least - ROUNDING * (self.intensity.a_max - self.intensity.a_min)

    def _has_tissue(self, image: np.ndarray) -> bool:
        """Whether the largest value of an image as in the file is above `crop_above`, of intensities voxel by voxel."""
        assert self.crop_above is not None
        largest = np.fmax.reduce(image, axis=None)
        return bool(self.normalised(np.full((1,) * image.ndim, largest)).max() > self.crop_above)

    def _tissue(self, image: np.ndarray) -> np.ndarray:
        """Which voxels of the image (C, *S) as in the file are tissue, (*S) bool."""
        return (image != 0).any(axis=0) if self.zero_background else np.ones(image.shape[1:], dtype=np.bool_)


def smallest_integers(values: np.ndarray) -> np.ndarray:
    """Whole numbers of at least 0 in the smallest type that holds them, uint8 or int32."""
    return values.astype(np.uint8 if values.max(initial=0) <= np.iinfo(np.uint8).max else np.int32)


def resize(voxels: np.ndarray, *, size: Sequence[int], mode: str) -> np.ndarray:
    """Voxels (C, ..., H, W) with the last two axes at `size`, float32; mode: bilinear (antialiased) or nearest."""
    planes = torch.from_numpy(in_rows(voxels)).reshape(1, -1, *voxels.shape[-2:])
    if mode == "nearest":
        planes = F.interpolate(planes, size=tuple(size), mode="nearest-exact")
    else:
        planes = F.interpolate(planes, size=tuple(size), mode="bilinear", antialias=True)
    return planes.reshape(*voxels.shape[:-2], *size).numpy()


def resized_to_source(shape: Sequence[int], *, size: Sequence[int]) -> np.ndarray:
    """Affine (4, 4) from voxels of the resized grid to voxels of the source of `shape` (*S).

    The outer faces of both grids coincide, so the centre of resized voxel i lies at scale * i + (scale - 1) / 2.
    """
    affine = np.eye(4)
    for axis, wanted in enumerate(size, start=len(shape) - len(size)):
        scale = shape[axis] / wanted
        affine[axis, axis], affine[axis, 3] = scale, (scale - 1) / 2
    return affine


def _pad(image: np.ndarray, *, pads: list[tuple[int, int]], value: float | None) -> np.ndarray:
    """image (C, *S) with `value` round it, None: the minimum of each channel."""
    if not any(before or after for before, after in pads):
        return np.ascontiguousarray(image)
    values = [channel.min() if value is None else value for channel in image]
    return np.stack([np.pad(channel, pads, constant_values=v) for channel, v in zip(image, values, strict=True)])


@dataclass(frozen=True)
class TrainingCrops:
    """Cut random crops out of a prepared case and augment each; 2-D crops of a volume are slices of it.

    With probability `positive_share` a crop is centred on a random foreground voxel (moved inwards where it
    would leave the volume), otherwise it lies anywhere, uniformly. Then the `augment` transforms run in turn.
    Crops of a case without label lie anywhere, and their label is background everywhere.

    by_class: the centre's class is drawn first, so that a small organ is in the middle as often as a large one
    """

    roi_size: Sequence[int]
    num_crops: int
    positive_share: float
    augment: Sequence[DictTransform]
    by_class: bool = True

    def __call__(self, prepared: Prepared, *, entropy: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Every random draw follows from `entropy`; returns image (C, *S) float32 and label (*S) int64."""
        # A stream for each transform: switching one off leaves the draws of the others as they were.
        streams = np.random.SeedSequence(list(entropy)).spawn(1 + len(self.augment))
        rng = np.random.default_rng(streams[0])
        for transform, stream in zip(self.augment, streams[1:], strict=True):
            # MONAI's `Randomizable`, and whoever takes a seed in the same way
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(seed=int(stream.generate_state(1)[0]))
        with plain_tensors():
            return [self._crop(prepared, rng) for _ in range(self.num_crops)]

    def _crop(self, prepared: Prepared, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        shape = prepared.image.shape[1:]
        window = np.array(window_shape(self.roi_size, num_dims=len(shape)))
        room = np.array(shape) - window
        positive = rng.random() < self.positive_share
        if positive and prepared.foreground is not None and prepared.foreground.voxels.size:
            flat = prepared.foreground.draw(rng, by_class=self.by_class)
            centre = np.array(np.unravel_index(flat, shape))
            start = np.clip(centre - window // 2, 0, room)
        else:
            start = rng.integers(0, room + 1)
        box = tuple(slice(a, a + size) for a, size in zip(start, window, strict=True))
        label = np.zeros(window, dtype=np.uint8) if prepared.label is None else prepared.label[box]
        # The copies also take the crop out of read-only memory maps.
        sample: Mapping = {
            "image": torch.from_numpy(np.array(prepared.image[(slice(None), *box)])).reshape(-1, *self.roi_size),
            "label": torch.from_numpy(np.array(label)).reshape(1, *self.roi_size),
        }
        for transform in self.augment:
            sample = transform(sample)
        return {
            "image": torch.as_tensor(sample["image"], dtype=torch.float32).contiguous(),
            "label": torch.as_tensor(sample["label"])[0].long().contiguous(),
        }
