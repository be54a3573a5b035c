"""`SegmentationData`: a data set as training, evaluation and prediction see it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch

from sct.config.parts import part
from sct.data.cases import Batch, Case, LabelMap, Volume
from sct.data.check import check_cases, find_faults
from sct.data.formats.base import FileFormat
from sct.data.formats.nifti import SLICE_AXES
from sct.data.formats.volumes import Volumes, Written
from sct.data.identity import check_ids
from sct.data.loading.cache import VolumeCache
from sct.data.loading.loader import CropDataset, StepSampler, make_loader
from sct.data.loading.transforms import DictTransform, Preprocess
from sct.data.loading.workers import decide_loading
from sct.data.outputs import Classes, Outputs
from sct.data.settings import check_scored_names, check_settings, tolerances_of, training_crops
from sct.data.splits import (
    SPLITS,
    split_at_random,
    split_by_file,
    split_in_folds,
    warn_of_shared,
    without_excluded,
    without_labels,
)
from sct.errors import UserError

CPU = torch.device("cpu")


@part
@dataclass(kw_only=True)
class SegmentationData(ABC):
    """Base of all data sets: a subclass says where the cases are and what the labels mean.

    root: folder of the data set
    roi_size: voxels of a training crop and of the sliding window, 2 or 3 numbers
    spacing: mm to resample to; null keeps each file's own
    resize_to: 2 numbers of voxels to resize every picture or slice to, whatever its spacing; null keeps its size
    intensity: dictionary transform that normalises the whole volume, key image: of sct.data.loading.scaling, or MONAI's
    crop_above: crop to the voxels above this normalised value; null keeps the volume
    zero_background: voxels that are 0 in every channel of the file are no tissue: crop to the others, pad with 0
    augment: named MONAI dictionary transforms of a crop, keys image and label; a null is skipped; null: none at all
    batch_size: volumes of one micro-batch and process; each gives crops_per_volume crops
    positive_share: probability that a crop is centred on a foreground voxel
    crop_centre: which foreground voxel. class: a class of the case is drawn first, and a voxel of it second, so that
        small organs are seen as often as large ones; voxel: any foreground voxel, as in the papers' programs
    split: shipped split, path of a split file, or null for a random one by val_share, test_share, split_seed
    patient_pattern: regular expression, searched in a case id, whose first group is the patient: all cases of one are
        drawn together; null makes every case a patient
    cache: none, memory or disk (below cache_dir, where the results of the check are also kept)
    num_workers: processes that load the crops of a training; auto: as many as suit its device
    check: read every case once at the start
    class_groups: named lists of classes or regions whose mean scores the evaluation reports too
    crops_per_volume: crops from every volume of a micro-batch
    folds: number of folds of a cross-validation, instead of a split; null: none. fold tests, val_share of the others
        validates
    fold: the fold that tests, from 0 to folds - 1
    val_share: share of the cases that validates a random split, or of those that no fold tests
    test_share: share of the cases that tests a random split
    split_seed: seed of random splits and folds
    cache_dir: folder of the cache and of the results of the check
    exclude: ids of cases to leave out of training, evaluation and check; the others stay in the parts that they are in
        without; null: none
    tolerance: of the normalised surface Dice, in mm, or in voxels where a file knows no spacing: one number, or one by
        class or region, and 1 for the others
    series: UID of the DICOM series to predict where a folder or zip file holds several; null: it holds one
    slices: axial, coronal or sagittal: the slices of volumes that roi_size, of 2 numbers, is for; null: none
    label_format: kind of the label maps that are written: nifti, nrrd, mha or dicom-seg; null: that of the image
    labelled: false: the images alone, to pretrain on (loss=masked), without label files and cases to test on
    """

    root: str
    roi_size: list[int]
    intensity: DictTransform
    cache_dir: str
    spacing: list[float] | None = None
    resize_to: list[int] | None = None
    crop_above: float | None = None
    zero_background: bool = False
    augment: dict[str, DictTransform | None] | None = None
    batch_size: int = 2
    crops_per_volume: int = 1
    positive_share: float = 0.5
    crop_centre: Literal["class", "voxel"] = "class"
    split: str | None = None
    val_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0
    folds: int | None = None
    fold: int | None = None
    patient_pattern: str | None = None
    cache: str = "memory"
    num_workers: int | Literal["auto"] = "auto"
    check: bool = True
    class_groups: dict[str, list[str]] = field(default_factory=dict)
    exclude: list[str] | None = None
    tolerance: float | dict[str, float] = 1.0
    series: str | None = None
    label_format: str | None = None
    slices: Literal["axial", "coronal", "sagittal"] | None = None
    labelled: bool = True
    # parts that must have cases, and whether none of the cases is one that the run at hand was trained on
    needed: tuple[str, ...] = field(default=SPLITS, init=False)
    is_other_set: bool = field(default=False, init=False)
    # settings whose folders may be written to: those of a saved config only where the command at hand names them
    may_write: tuple[str, ...] = field(default=("root", "cache_dir"), init=False)
    _splits: dict[str, list[Case]] | None = field(default=None, init=False, repr=False)
    _checked: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    @abstractmethod
    def label_map(self) -> LabelMap:
        """Names of the values of the label files."""

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """Channels of every image."""

    @abstractmethod
    def find_cases(self) -> list[Case]:
        """All labelled cases below `root`; raises `UserError` that says what was expected where."""

    def found(self) -> dict[str, Any]:
        """Settings that were read from the data set's files, such as names of labels, by their names.

        A training saves them with its run, which then needs the files no more; a run is only used with the same.
        """
        return {}

    @property
    def reads_volumes(self) -> bool:
        """Whether each image is one medical image of any kind, see `Volumes`."""
        return True

    @property
    def brings_folds(self) -> bool:
        """Whether the data set comes with folds of its own, of which data.fold alone chooses one."""
        return False

    @property
    def normalisation(self) -> DictTransform:
        """What normalises a whole volume, key `image`."""
        return self.intensity

    def measure(self, cases: list[Case]) -> None:  # noqa: B027
        """Learns what its normalisation takes from the training cases together; by default that is nothing.

        Called once, when a training or an evaluation begins, before the files are checked: a file that can't be read is
        left to the check. What is learnt belongs to `found`, and is not measured again where it is given.
        """

    @property
    def format(self) -> FileFormat:
        """How its files are read, and predictions written."""
        return Volumes(self.file_dims, self.series, Written(self.label_format, self.label_map.names))

    @property
    def scores(self) -> tuple[str, ...]:
        """Columns of the table of an evaluation: of `sct.evaluation.metrics.SHARES`, and hd95; its files hold all."""
        return ("dice", "nsd", "hd95")

    def tolerances(self) -> dict[str, float]:
        """Tolerance of the normalised surface Dice by what is scored; UserError for other names and values."""
        return tolerances_of(self.tolerance, names=self.outputs.names)

    @property
    def outputs(self) -> Outputs:
        """What the channels of a network's logits mean, and what is scored."""
        return Classes(self.label_map)

    @property
    def num_classes(self) -> int:
        """Values of the label maps, with the background."""
        return len(self.label_map)

    @property
    def num_outputs(self) -> int:
        """Channels that a network predicts: of `outputs`, or of the image itself where there are no labels."""
        return self.outputs.num_channels if self.labelled else self.num_channels

    @property
    def spatial_dims(self) -> int:
        """Axes of the network's window, 2 or 3; a volume before a window of 2 is seen as slices of its first axis."""
        return len(self.roi_size)

    @property
    def file_dims(self) -> int:
        """Axes of an image file, beside one of channels."""
        return 3 if self.slices is not None else self.spatial_dims

    @property
    def axes(self) -> str | None:
        """Where the axes of a volume lead once it is turned; None: images stay as their files have them."""
        return "RAS" if self.spatial_dims == 3 else SLICE_AXES.get(self.slices)

    def split_cases(self, cases: list[Case]) -> dict[str, list[Case]]:
        """Share `cases` out over train, val and test."""
        if self.folds is not None and self.fold is not None:
            return split_in_folds(cases, folds=self.folds, fold=self.fold, **self._drawing)
        if self.split is not None:
            return split_by_file(cases, split=self.split)
        return self.default_split(cases)

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        """The parts where the config names none."""
        return split_at_random(cases, test_share=self.test_share, **self._drawing)

    @property
    def _drawing(self) -> dict[str, Any]:
        return {"val_share": self.val_share, "seed": self.split_seed, "patient_pattern": self.patient_pattern}

    def prepare(self, *, check: bool = True) -> None:
        """Find the cases and share them out, then `check` their files; nothing is done a second time."""
        if self._splits is None:
            self._splits = self._shared_out()
        if check and self.check and not self._checked:
            self.check_files(sorted({case for part in self._splits.values() for case in part}, key=attrgetter("name")))
            self._checked = True

    def _shared_out(self) -> dict[str, list[Case]]:
        """The cases of each part, without those to leave out."""
        cases = self.find_cases()
        check_ids(cases)
        splits = self.split_cases(cases)
        if self.exclude:
            splits = without_excluded(splits, exclude=self.exclude)
        check_scored_names(self)
        for name in self.needed if self.labelled else ("train", "val"):
            if not splits[name]:
                raise UserError(f"The split data.split={self.split} has no case to {name} on. Give it at least one.")
        if not self.is_other_set:
            warn_of_shared(splits, split=self.split, pattern=self.patient_pattern)
        self.measure(splits["train"])
        return splits if self.labelled else without_labels(splits)

    def check_files(self, cases: list[Case], *, remember: bool = True) -> None:
        """Read every file of `cases` (also new ones to predict, without label) unless known to be good.

        remember: leave in `cache_dir`, where that may be written, which files are good.
        """
        memory = Path(self.cache_dir) / "checked.json" if remember else None
        check_cases(cases, memory=memory, may_remember="cache_dir" in self.may_write, **self._expected)

    def find_faults(self, case: Case) -> list[str]:
        """What is wrong with the files of one case, also of a new one to predict, a line for each fault."""
        return find_faults(case, **self._expected)

    @property
    def _expected(self) -> dict[str, Any]:
        """What the check compares the files of a case with."""
        return {
            "label_map": self.label_map,
            "num_channels": self.num_channels,
            "file_format": self.format,
            "preprocess": self.preprocess,
        }

    def cases(self, split: str) -> list[Case]:
        """The cases of `train`, `val` or `test`."""
        if split not in SPLITS:
            raise UserError(f"split={split} is unknown: choose one of {', '.join(SPLITS)}.")
        self.prepare()
        assert self._splits is not None
        return self._splits[split]

    def train_loader(
        self,
        *,
        seed: int,
        start_step: int,
        num_steps: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        device: torch.device = CPU,
    ) -> Iterator[Batch]:
        """The batches of steps start_step ... start_step + num_steps - 1, `micro_batches` of them a step.

        image (B, C, *roi_size), label (B, *roi_size), B = batch_size * crops_per_volume. Sample numbers alone
        decide cases and augmentation (see `sct.data.loading.loader`). Fills the cache first. `device` is where they are
        needed: it decides how they are loaded.
        """
        self._volumes.fill(cases := self.cases("train"))
        sampler = StepSampler(
            start_step=start_step,
            num_steps=num_steps,
            micro_batches=micro_batches,
            rank=rank,
            world_size=world_size,
            batch_size=self.batch_size,
        )
        dataset = CropDataset(cases=cases, cache=self._volumes, crops=training_crops(self), seed=seed)
        loading = decide_loading(
            self.num_workers,
            num_crops=self.batch_size * self.crops_per_volume,
            micro_batches=micro_batches,
            num_channels=self.num_channels,
            roi_size=self.roi_size,
            cache=self.cache,
            device=device,
            tell=rank == 0,
        )
        return make_loader(dataset, sampler=sampler, loading=loading, device=device)

    def load_case(self, case: Case) -> Volume:
        """One case after the deterministic transforms; cached where it belongs to the data set.

        A case that is not in the data set (a file to predict) needs no `prepare`.
        """
        if self._splits is None:
            return self.preprocess(case).volume()
        # what is cached stays as it is
        return self._volumes.get(case).volume(copied=True)

    @property
    def preprocess(self) -> Preprocess:
        """From a file to the network's grid."""
        return Preprocess(
            roi_size=self.roi_size,
            spacing=self.spacing,
            intensity=self.normalisation,
            crop_above=self.crop_above,
            zero_background=self.zero_background,
            file_format=self.format,
            resize_to=self.resize_to,
            ignored=self.label_map.ignored,
            axes=self.axes,
        )

    @cached_property
    def _volumes(self) -> VolumeCache:
        # Test cases are read once, after the training: memory for them would be wasted.
        kept = ("train", "val") if self.cache == "memory" else SPLITS
        keep = [case for split in kept for case in self.cases(split)]
        kind = "none" if self.cache == "disk" and "cache_dir" not in self.may_write else self.cache
        return VolumeCache(self.preprocess, kind=kind, directory=Path(self.cache_dir), keep=keep)
