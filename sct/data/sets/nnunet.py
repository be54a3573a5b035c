"""nnU-Net's raw folder: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, splits_final.json."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sct.data.cases import Case
from sct.data.check import check_cases
from sct.data.formats.base import FileFormat
from sct.data.formats.channels import Channels, Listed, one_file
from sct.data.identity import Pair, name_cases
from sct.data.loading.intensity import ByChannelName, Statistics, measure
from sct.data.loading.transforms import DictTransform
from sct.data.outputs import Outputs, Regions
from sct.data.sets.described import Described, same
from sct.data.sets.nnunet_description import SPLITS, Description, read_description, read_fold
from sct.data.splits import split_in_two
from sct.errors import UserError

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass(kw_only=True)
class NNUNet(Described):
    """A data set of nnU-Net; case ids are the names of the cases, such as la_003.

    Where there is a folder labelsTs, its cases are the test set of a training without folds and without `split`.

    intensity: null normalises every channel by its name, see `ByChannelName`
    statistics: of each channel that is called CT the mean, standard deviation, 0.5 and 99.5 percentile of the
        foreground voxels of the training cases, null for other channels; null measures them when a training begins. A
        trained run has them.
    regions_class_order: label values that the regions are written with; null takes dataset.json's with its regions
    file_ending: ending of every file, such as .nii.gz; null takes dataset.json's, and a trained run has it
    fold: without `folds`, number `fold` of splits_final.json: its list `val` tests, and `val_share` of its list `train`
        validates
    """

    intensity: DictTransform | None = None  # type: ignore[assignment]
    statistics: list[list[float] | None] | None = None
    regions_class_order: list[int] | None = None
    file_ending: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and self.folds is None and self.split is not None:
            raise UserError(
                f"data.split={self.split} and data.fold={self.fold} both say what is tested on. Set data.split=null "
                f"for a fold of {SPLITS}, or leave data.fold out."
            )

    @property
    def reads_volumes(self) -> bool:
        return False

    @property
    def brings_folds(self) -> bool:
        return True

    @cached_property
    def _description(self) -> Description:
        return read_description(Path(self.root), ignore=self.ignore)

    @property
    def described_labels(self) -> list[str]:
        return self._description.labels

    @property
    def described_channels(self) -> list[str]:
        return self._description.channels

    @property
    def outputs(self) -> Outputs:
        regions, order = self._regions
        if regions is None:
            return super().outputs
        return Regions.from_settings(self.label_map, regions, painted=order)

    @property
    def _regions(self) -> tuple[Mapping[str, Any] | None, list[int] | None]:
        """The regions to predict, if any, and the values that they are painted with."""
        if self.regions is not None or self.labels is not None:
            return self.regions, self.regions_class_order
        return self._description.regions, self._description.painted

    @property
    def ending(self) -> str:
        """Ending of every file."""
        return self._description.ending if self.file_ending is None else self.file_ending

    @property
    def format(self) -> FileFormat:
        setting = "data.file_ending" if self.file_ending is not None else f"file_ending in {self.file}"
        one = one_file(self.ending, spatial_dims=self.file_dims, setting=setting)
        return Channels(one, self.ending, self.num_channels, self._listed_files)

    @property
    def normalisation(self) -> DictTransform:
        if self.intensity is not None:
            return self.intensity
        rows = self.statistics or [None] * self.num_channels
        return ByChannelName(
            tuple(self.channel_names), tuple(None if row is None else Statistics(*row) for row in rows)
        )

    def measure(self, cases: list[Case]) -> None:
        if self.intensity is not None or self.statistics is not None:
            return
        channels, label_map, file_format = self.channel_names, self.label_map, self.format
        memory = Path(self.cache_dir) / "statistics.json"
        try:
            rows = measure(
                cases,
                channels=channels,
                label_map=label_map,
                file_format=file_format,
                memory=memory,
                may_remember="cache_dir" in self.may_write,
            )
        except UserError:
            # a file that can't be read is the better reason
            check_cases(cases, label_map=label_map, num_channels=len(channels), file_format=file_format, memory=None)
            raise
        self.statistics = [None if row is None else list(row) for row in rows]
        for name, row in zip(channels, rows, strict=True):
            if row is not None:
                logger.info("channel %s over %d training cases: %s", name, len(cases), row)

    def found(self) -> dict[str, Any]:
        regions, order = self._regions
        return {
            **super().found(),
            "regions": regions,
            "regions_class_order": order,
            "file_ending": self.ending,
            "statistics": self.statistics,
        }

    def listed_cases(self) -> list[Case]:
        described = self._description
        if described.reader is not None:
            logger.info(
                "overwrite_image_reader_writer=%s is ignored: the ending says how a file is read", described.reader
            )
        if self.file_ending not in (None, described.ending):
            raise UserError(
                f"The files of {self.file} end in {described.ending} (file_ending), but data.file_ending, or what the "
                f"run was trained with, is {self.file_ending}. Give data.file_ending={described.ending}."
            )
        if described.regions is not None and self.labels is not None:
            self._compare_regions(described)
        root = Path(self.root)
        if described.listed is not None:
            training = [Case(name, images[0], label) for name, (images, label) in described.listed.items()]
        else:
            training = self._folder_cases("Tr")
        if len(training) != described.num_training:
            raise UserError(
                f"{self.file}: numTraining is {described.num_training}, but there are {len(training)} training cases. "
                "Complete the data, or correct the number."
            )
        testing = self._folder_cases("Ts") if (root / "labelsTs").is_dir() else []
        if described.listed is not None:
            return [*training, *testing]
        pairs: list[Pair] = [(case.image, case.label) for case in (*training, *testing)]
        return name_cases(pairs, root=root, stem=self.format.stem)

    def _compare_regions(self, described: Description) -> None:
        """UserError where regions, or the values that they are written with, are not those of the run."""
        regions, order = self._regions
        ours, theirs = list((regions or {}).items()), list((described.regions or {}).items())
        agree = same([name for name, _ in ours], [name for name, _ in theirs]) and order == described.painted
        if not agree or [list(own) for _, own in ours] != [own for _, own in theirs]:
            raise UserError(
                f"The regions differ: expected (data.regions, or what the run was trained with)\n  {dict(ours)} "
                f"written as {order}\nbut {self.file} has\n  {dict(theirs)} written as {described.painted}\n"
                "Correct the file. In a new training, data.regions=null with data.labels=null takes the file's."
            )

    @cached_property
    def _listed_files(self) -> Listed:
        """Files of images that dataset.json lists itself; none without it, as where a trained run only predicts."""
        listed = self._description.listed if self.file.is_file() else None
        files: dict[Path, tuple[Path, ...]] = {}
        for images, _ in (listed or {}).values():
            if files.setdefault(images[0], images) != images:
                raise UserError(f"{self.file}: two cases of `dataset` share {images[0]}, but not their other channels.")
        return Listed(files)

    def _folder_cases(self, part: str) -> list[Case]:
        """Cases of imagesTr or imagesTs with labels; what lacks its other half is left to the check, which names it."""
        images, labels = Path(self.root) / f"images{part}", Path(self.root) / f"labels{part}"
        stems = self._stems(images)
        numbered = [re.fullmatch(r"(.+)_\d{4}", stem) for stem in stems]
        if odd := [stem for stem, match in zip(stems, numbered, strict=True) if match is None]:
            raise UserError(
                f"{images}: {some([stem + self.ending for stem in odd])} lack(s) the number of the channel; expected "
                f"CASE_0000{self.ending}, and CASE_0001{self.ending} for a second channel. Rename them."
            )
        names = {match[1] for match in numbered if match is not None}
        labelled = set(self._stems(labels))
        if part == "Ts" and (unknown := names - labelled):
            logger.info("%d image(s) of %s have no label: they are not scored", len(unknown), images)
            names &= labelled
        return [
            Case(name, images / f"{name}_0000{self.ending}", labels / f"{name}{self.ending}")
            for name in sorted(names | labelled)
        ]

    def _stems(self, folder: Path) -> list[str]:
        """Names without ending of the files of a folder; UserError where it has none of the right ending."""
        files = (
            sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
        )
        stems = [name.removesuffix(self.ending) for name in files if name.endswith(self.ending)]
        if not stems:
            state = f"has {some(files)}" if files else "is empty" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder}: {state}; expected files that end in {self.ending}, as {self.file} says.")
        return stems

    def split_cases(self, cases: list[Case]) -> dict[str, list[Case]]:
        testing = [case for case in cases if case.label is not None and case.label.parent.name == "labelsTs"]
        training = [case for case in cases if case not in testing]
        if self.fold is None:
            if not testing or self.split is not None:
                return super().split_cases(cases)
            return {**self._in_two(training), "test": testing}
        if testing:
            logger.info("data.fold=%d: the %d cases of labelsTs are left out", self.fold, len(testing))
        if self.folds is not None:
            return super().split_cases(training)
        return self._fold_of_file(training, fold=self.fold)

    def _in_two(self, cases: list[Case]) -> dict[str, list[Case]]:
        return split_in_two(cases, val_share=self.val_share, seed=self.split_seed, patient_pattern=self.patient_pattern)

    def _fold_of_file(self, cases: list[Case], *, fold: int) -> dict[str, list[Case]]:
        lists, path = read_fold(Path(self.root), fold=fold), Path(self.root) / SPLITS
        # where imagesTs has cases of the same names, ids are paths
        by_name = {case.id.removeprefix("imagesTr/"): case for case in cases}
        named = [*lists["train"], *lists["val"]]
        if absent := sorted(set(named) - by_name.keys()):
            raise UserError(f"{path}: fold {fold} names {some(absent)}, which {self.root} lacks. Complete the data.")
        if both := sorted(set(lists["train"]) & set(lists["val"])):
            raise UserError(f"{path}: fold {fold} both trains and validates on {some(both)}. Correct the lists.")
        if unused := sorted(by_name.keys() - set(named)):
            logger.warning("fold %d of %s leaves out %d case(s): %s", fold, path, len(unused), some(unused))
        parts = self._in_two([by_name[name] for name in lists["train"]])
        return {**parts, "test": [by_name[name] for name in lists["val"]]}


def some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
