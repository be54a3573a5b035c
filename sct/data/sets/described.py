"""Data sets whose dataset.json names labels and channels: what the Decathlon's and nnU-Net's layout share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from sct.data.cases import Case, LabelMap
from sct.data.module import SegmentationData
from sct.data.outputs import Classes, Outputs, Regions
from sct.errors import UserError
from sct.runtime import plain

# letters of a file's name on every file system
LONGEST = 255
# the name that nnU-Net gives to it
IGNORE = "ignore"


@dataclass(kw_only=True)
class Described(SegmentationData):
    """A folder with a dataset.json.

    labels: names by value, background first; null takes dataset.json's. Given, they must agree with it.
    channels: names of the channels; null takes dataset.json's. Given, they must agree with it.
    With both given, classes and channels are known without the data; a trained run has them.
    regions: predict these overlapping unions of labels instead of the labels, each a list of values or names
    ignore: name of the label, if there is one, whose voxels count in no loss and no score; it must have the highest
        value. null: every label is a class
    """

    labels: list[str] | None = None
    channels: list[str] | None = None
    regions: dict[str, list[int | str]] | None = None
    ignore: str | None = IGNORE
    # whether the label files may hold a value to ignore; what their dataset.json says counts, once it has been read
    _files_ignore: bool | None = field(default=None, init=False, repr=False)

    @property
    @abstractmethod
    def described_labels(self) -> list[str]:
        """Names by value in dataset.json, with the one to ignore."""

    @property
    @abstractmethod
    def described_channels(self) -> list[str]:
        """Names of the channels in dataset.json."""

    @abstractmethod
    def listed_cases(self) -> list[Case]:
        """The cases, once labels and channels proved to be those of the run."""

    @property
    def label_map(self) -> LabelMap:
        names = self.labels if self.labels is not None else self.described_labels
        ignores = self.ends_in_ignore(names) if self._files_ignore is None else self._files_ignore
        try:
            return LabelMap(tuple(self.classes(names)), has_ignored=ignores)
        except UserError as error:
            raise error if self.labels is not None else UserError(f"{self.file}: `labels`: {error}") from None

    @property
    def outputs(self) -> Outputs:
        return Classes(self.label_map) if self.regions is None else Regions.from_settings(self.label_map, self.regions)

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels of every image."""
        return list(self.channels if self.channels is not None else self.described_channels)

    @property
    def num_channels(self) -> int:
        return len(self.channel_names)

    def find_cases(self) -> list[Case]:
        found = self.described_labels
        if self.labels is None and self.ignore not in (None, IGNORE, *found):
            raise UserError(f"data.ignore={self.ignore}: {self.file} has no such label, but {', '.join(found)}.")
        if self.labels is not None and not same(self.classes(found), self.classes(self.labels)):
            raise UserError(
                f"The names of the labels differ: expected (data.labels, or what the run was trained with)\n  "
                f"{', '.join(self.labels)}\nbut {self.file} has\n  {', '.join(found)}\n"
                "A network knows the labels in the order that it was trained with: correct the names in the file, and "
                "the values of its label files with them. In a new training, data.labels=null takes the file's names."
            )
        channels = self.described_channels
        if self.channels is not None and not same(channels, self.channels):
            raise UserError(
                f"The names of the channels differ: expected (data.channels, or what the run was trained with)\n  "
                f"{', '.join(self.channels)}\nbut {self.file} has\n  {', '.join(channels)}\n"
                "Correct the names in the file, and the order of its channels with them. In a new training, "
                "data.channels=null takes the file's names."
            )
        self._files_ignore = self.ends_in_ignore(found)
        return self.listed_cases()

    def found(self) -> dict[str, Any]:
        ignored = [self.ignore] if self.label_map.has_ignored else []
        return {"labels": [*self.label_map.names, *ignored], "channels": self.channel_names}

    @property
    def file(self) -> Path:
        """Where labels and channels are described."""
        return Path(self.root) / "dataset.json"

    def ends_in_ignore(self, names: Sequence[str]) -> bool:
        """Whether the last label is the one to ignore; UserError where another one is."""
        if self.ignore is not None and self.ignore in names[:-1]:
            raise UserError(
                f"The label {self.ignore}, which counts in no loss and no score (data.ignore), has the value "
                f"{list(names).index(self.ignore)} among {', '.join(names)}. It must have the highest: renumber the "
                "labels, or set data.ignore=null to make it a class."
            )
        return self.ignore is not None and list(names[-1:]) == [self.ignore]

    def classes(self, names: Sequence[str]) -> list[str]:
        """The names without the one to ignore."""
        return list(names[:-1] if self.ends_in_ignore(names) else names)


def same(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists name the same, in the same order."""
    return [name.lower() for name in names] == [name.lower() for name in others]


def read_json(path: Path) -> Any:
    """Content of a JSON file, with or without a byte-order mark; UserError where it is none, or far too large."""
    return plain.read_json(path, remedy="Download it again, or correct it there.", constants=False)


def is_twin(name: str) -> bool:
    """Whether a file is what archives made on a Mac carry beside every file: ._ and its name."""
    return name.startswith("._")


def inside(root: Path, listed: str, *, file: Path) -> Path:
    """A path that `file` lists, below the folder `root` of the data set; UserError where it leads out of the folder.

    A data set may come from a stranger, and its list is no reason to read other files of the user. Links in the folder
    are followed: the user has made them, or has unpacked them.
    """
    if not isinstance(listed, str) or not listed.strip() or max(map(len, slashes(listed).split("/"))) > LONGEST:
        raise UserError(
            f"{file}: lists {plain.clipped(repr(listed))} where the path of a file is expected. Correct it."
        )
    path = slashes(listed)
    absolute = path.startswith("/") or PureWindowsPath(path).drive != ""
    if ".." in path.split("/") or "\0" in path or (absolute and not Path(path).is_relative_to(root.absolute())):
        raise UserError(
            f"{file}: lists {listed}, which is outside of the data set. Files must be in {root} or in folders below: "
            "put them, or links to them, there, and list them without .. in their paths."
        )
    return root / path


def slashes(path: str) -> str:
    """A path of a list that was written on Windows, as it is read everywhere."""
    return path.replace("\\", "/")
