"""Any folder in the layout of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sct.data.cases import Case
from sct.data.identity import name_cases
from sct.data.layouts import no_data
from sct.data.sets.described import Described, inside, is_twin, read_json
from sct.errors import UserError


@dataclass(kw_only=True)
class MSD(Described):
    """A Decathlon data set; case ids are the image file names without suffix."""

    @cached_property
    def _description(self) -> dict:
        if not self.file.is_file():
            raise no_data(
                "Decathlon",
                name="msd",
                root=self.root,
                lacks="no dataset.json",
                expected="Expected: dataset.json (labels, modality, training), imagesTr and labelsTr.\n"
                "  Download one from http://medicaldecathlon.com, unpack it and set data.root to its folder.",
            )
        content = read_json(self.file)
        if not isinstance(content, dict):
            raise UserError(f"{self.file}: is no JSON object. Download it again.")
        if "training" not in content and "file_ending" in content:
            raise UserError(f"{self.file}: is of nnU-Net's layout, not of the Decathlon's. Give data=nnunet.")
        return content

    @property
    def described_labels(self) -> list[str]:
        """Names by value, from {value: name} or {name: value}."""
        labels = self._description.get("labels", {})
        try:
            by_value = _values_first(labels)
        except (AttributeError, TypeError, ValueError):
            by_value = {}
        if sorted(by_value) != list(range(len(by_value))) or not by_value:
            raise UserError(
                f"{self.file}: `labels` is {labels}; expected the values 0, 1, 2, ... with a name each, as "
                '{"0": "background", ...} or {"background": 0, ...}.'
            )
        return [by_value[value] for value in range(len(by_value))]

    @property
    def described_channels(self) -> list[str]:
        channels = self._description.get("channel_names", self._description.get("modality"))
        if not isinstance(channels, dict) or not channels:
            raise UserError(
                f"{self.file}: `modality` or `channel_names` is {channels}; expected the name of each channel, as "
                '{"0": "MRI"}. Write it.'
            )
        return [str(name) for name in channels.values()]

    def listed_cases(self) -> list[Case]:
        try:
            pairs = [(entry["image"], entry["label"]) for entry in self._description["training"]]
            root = Path(self.root)
            files = [(inside(root, i, file=self.file), inside(root, t, file=self.file)) for i, t in pairs]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.file}: needs a list `training` of {{image, label}} with paths relative to the file "
                f"({type(error).__name__}: {error})."
            ) from error
        kept = [(image, label) for image, label in files if not is_twin(image.name)]
        if not kept:
            raise UserError(f"{self.file}: the list `training` is empty.")
        return name_cases(kept, root=root, stem=self.format.stem)


def _values_first(labels: dict) -> dict[int, str]:
    if not all(str(key).isdecimal() for key in labels):
        labels = {value: name for name, value in labels.items()}
    if not all(isinstance(name, str) for name in labels.values()):
        raise TypeError("a name is no text")
    named = {int(value): name for value, name in labels.items()}
    # Some sets capitalise it.
    return {value: "background" if name.lower() == "background" else name for value, name in named.items()}
