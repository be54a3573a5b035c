"""Any folder in the layout of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sct.data.cases import Case, LabelMap
from sct.data.identity import name_cases
from sct.data.module import SegmentationData
from sct.data.outputs import Classes, Outputs, Regions
from sct.errors import UserError


@dataclass(kw_only=True)
class MSD(SegmentationData):
    """A Decathlon data set; case ids are the image file names without suffix.

    labels: names by value, background first; null takes dataset.json's. Given, they must agree with it.
    channels: names of the channels; null takes dataset.json's. Given, their number must agree with it.
    With both given, classes and channels are known without the data; a trained run has them.
    regions: predict these overlapping unions of labels instead of the labels, each a list of values or names
    """

    labels: list[str] | None = None
    channels: list[str] | None = None
    regions: dict[str, list[int | str]] | None = None

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(tuple(self.labels if self.labels is not None else self._description_labels))

    @property
    def outputs(self) -> Outputs:
        return Classes(self.label_map) if self.regions is None else Regions.from_settings(self.label_map, self.regions)

    @property
    def num_channels(self) -> int:
        return len(self.channels if self.channels is not None else self._description_channels)

    def find_cases(self) -> list[Case]:
        found = self._description_labels
        if self.labels is not None and [n.lower() for n in found] != [n.lower() for n in self.labels]:
            raise UserError(
                f"The names of the labels differ: expected (data.labels, or what the run was trained with)\n  "
                f"{', '.join(self.labels)}\nbut {self._file} has\n  {', '.join(found)}\n"
                "A network knows the labels in the order that it was trained with: correct the names in the file, and "
                "the values of its label files with them. In a new training, data.labels=null takes the file's names."
            )
        channels = self._description_channels
        if self.channels is not None and [n.lower() for n in channels] != [n.lower() for n in self.channels]:
            raise UserError(
                f"The names of the channels differ: expected (data.channels, or what the run was trained with)\n  "
                f"{', '.join(self.channels)}\nbut {self._file} has\n  {', '.join(channels)}\n"
                "Correct the names in the file, and the order of its channels with them. In a new training, "
                "data.channels=null takes the file's names."
            )
        return self._listed_cases()

    def found(self) -> dict[str, Any]:
        channels = self.channels if self.channels is not None else self._description_channels
        return {"labels": list(self.label_map.names), "channels": list(channels)}

    @property
    def _file(self) -> Path:
        return Path(self.root) / "dataset.json"

    @cached_property
    def _description(self) -> dict:
        if not self._file.is_file():
            state = "has no dataset.json" if Path(self.root).is_dir() else "does not exist"
            raise UserError(
                f"No Decathlon data: looked in {Path(self.root).resolve()} (data.root), which {state}.\n"
                "  Expected: dataset.json (labels, modality, training), imagesTr and labelsTr.\n"
                "  Download one from http://medicaldecathlon.com, unpack it and set data.root to its folder."
            )
        try:
            content = json.loads(self._file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self._file}: is not JSON ({error}). Download it again.") from error
        if not isinstance(content, dict):
            raise UserError(f"{self._file}: is no JSON object. Download it again.")
        return content

    @property
    def _description_labels(self) -> list[str]:
        """Names by value, from {value: name} or {name: value}."""
        labels = self._description.get("labels", {})
        try:
            by_value = _values_first(labels)
        except (AttributeError, TypeError, ValueError):
            by_value = {}
        if sorted(by_value) != list(range(len(by_value))) or not by_value:
            raise UserError(
                f"{self._file}: `labels` is {labels}; expected the values 0, 1, 2, ... with a name each, as "
                '{"0": "background", ...} or {"background": 0, ...}.'
            )
        return [by_value[value] for value in range(len(by_value))]

    @property
    def _description_channels(self) -> list[str]:
        channels = self._description.get("channel_names", self._description.get("modality"))
        if not isinstance(channels, dict) or not channels:
            raise UserError(
                f'{self._file}: has neither `modality` nor `channel_names` such as {{"0": "MRI"}}. Add one.'
            )
        return [str(name) for name in channels.values()]

    def _listed_cases(self) -> list[Case]:
        try:
            pairs = [(entry["image"], entry["label"]) for entry in self._description["training"]]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self._file}: needs a list `training` of {{image, label}} with paths relative to the file "
                f"({type(error).__name__}: {error})."
            ) from error
        root = Path(self.root)
        # Archives made on a Mac carry a ._ twin beside every file.
        kept = [(root / i, root / t) for i, t in pairs if not Path(i).name.startswith("._")]
        if not kept:
            raise UserError(f"{self._file}: the list `training` is empty.")
        return name_cases(kept, root=root, stem=self.format.stem)


def _values_first(labels: dict) -> dict[int, str]:
    if not all(str(key).isdecimal() for key in labels):
        labels = {value: name for name, value in labels.items()}
    named = {int(value): str(name) for value, name in labels.items()}
    # Some sets capitalise it.
    return {value: "background" if name.lower() == "background" else name for value, name in named.items()}
