"""What nnU-Net's dataset.json (version 2) and splits_final.json say, each mistake in them as one message."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sct.data.cases import LabelMap
from sct.data.layouts import no_data
from sct.data.outputs import Classes, Outputs, Regions
from sct.data.sets.described import inside, is_twin, read_json, slashes
from sct.data.splits import check_ids_of_list
from sct.errors import UserError

FILE = "dataset.json"
SPLITS = "splits_final.json"
# settings of nnU-Net that say nothing about the data
_READER = "overwrite_image_reader_writer"


@dataclass(frozen=True)
class Description:
    """labels: names by value, the one to ignore last; of values that are named in regions alone, `label 1`, ...

    regions: their values by name, in the order of `painted`, the value that each is written with; None for classes
    channels: names by number · ending: of every file · num_training: cases that there should be
    listed: images and label file of every case that dataset.json lists itself; None where the folders say
    reader: what `overwrite_image_reader_writer` names, which is not used
    """

    labels: list[str]
    regions: dict[str, list[int]] | None
    painted: list[int] | None
    channels: list[str]
    ending: str
    num_training: int
    listed: dict[str, tuple[tuple[Path, ...], Path]] | None
    reader: str | None


def read_description(root: Path, *, ignore: str | None) -> Description:
    """dataset.json of the folder `root`; `ignore` is the name of the label to ignore, if there is one."""
    path = root / FILE
    if not path.is_file():
        raise no_data(
            "nnU-Net",
            name="nnunet",
            root=root,
            lacks=f"no {FILE}",
            expected=f"Expected: {FILE} (channel_names, labels, numTraining, file_ending), imagesTr with\n"
            "  CASE_0000.nii.gz and labelsTr with CASE.nii.gz, as in nnUNet_raw/Dataset001_Name.",
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no JSON object; expected channel_names, labels, numTraining and file_ending.")
    required = ("channel_names", "labels", "numTraining", "file_ending")
    if absent := [key for key in required if key not in content]:
        hint = " It looks like the Decathlon's layout: give data=msd." if "training" in content else ""
        raise UserError(f"{path}: lacks {', '.join(absent)}; expected {', '.join(required)}.{hint}")
    labels, regions, painted = _labels(content, path=path, ignore=ignore)
    ending, number = content["file_ending"], content["numTraining"]
    if not isinstance(ending, str) or not ending.startswith(".") or {"/", "\\"} & set(ending):
        raise UserError(f'{path}: `file_ending` is {ending!r}; expected the ending of every file, as ".nii.gz".')
    if not isinstance(number, int) or number < 1:
        raise UserError(f"{path}: `numTraining` is {number!r}; expected the number of training cases.")
    return Description(
        labels=labels,
        regions=regions,
        painted=painted,
        channels=_channels(content["channel_names"], path=path),
        ending=ending,
        num_training=number,
        listed=_listed(content["dataset"], path=path) if "dataset" in content else None,
        reader=content.get(_READER),
    )


def described_outputs(content: Mapping[str, Any], *, path: Path, ignore: str | None) -> Outputs:
    """What the logits of a network are for the labels of a dataset.json: classes, or regions."""
    labels, regions, painted = _labels(content, path=path, ignore=ignore)
    has_ignored = ignore is not None and labels[-1] == ignore
    label_map = LabelMap(tuple(labels[:-1] if has_ignored else labels), has_ignored=has_ignored)
    if regions is None:
        return Classes(label_map)
    return Regions.from_settings(label_map, regions, painted=painted)


def _labels(
    content: Mapping[str, Any], *, path: Path, ignore: str | None
) -> tuple[list[str], dict[str, list[int]] | None, list[int] | None]:
    """Names by value, and where any label is a list of several values, the regions with the values to paint."""
    labels = content["labels"]
    example = '{"background": 0, "liver": 1, ...}, or lists of numbers for regions'
    try:
        values = {str(name): _numbers(value) for name, value in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path}: `labels` is {labels}; expected {example}.") from None
    # Some sets capitalise it.
    values = {"background" if name.lower() == "background" else name: own for name, own in values.items()}
    known = sorted({value for own in values.values() for value in own})
    if known != list(range(len(known))) or values.get("background") != [0] or len(known) < 2:
        raise UserError(f"{path}: `labels` is {labels}; expected {example}, background 0 and no number left out.")
    ignored = values.pop(ignore, None) if ignore is not None else None
    if ignored is not None and (ignored != [known[-1]] or any(known[-1] in own for own in values.values())):
        raise UserError(
            f"{path}: the label {ignore} is {labels[ignore]}; expected {known[-1]}, the highest of all, for it alone."
        )
    classes = known[:-1] if ignored is not None else known
    last = [ignore] if ignore is not None and ignored is not None else []
    if all(len(own) == 1 for own in values.values()):
        names = {own[0]: name for name, own in values.items()}
        if len(names) < len(values):
            raise UserError(f"{path}: `labels` is {labels}; two names have one number.")
        return [names[value] for value in classes] + last, None, None
    regions = {name: own for name, own in values.items() if name != "background"}
    names_by_value = ["background", *(f"label {value}" for value in classes[1:]), *last]
    return names_by_value, regions, _order(content, path=path, regions=regions)


def _numbers(value: Any) -> list[int]:
    own = list(value) if isinstance(value, list | tuple) else [value]
    if not own or any(isinstance(number, bool | float) for number in own):
        raise ValueError(own)
    return [int(number) for number in own]


def _order(content: Mapping[str, Any], *, path: Path, regions: Mapping[str, list[int]]) -> list[int]:
    order = content.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(regions) or not all(isinstance(v, int) for v in order):
        raise UserError(
            f"{path}: `regions_class_order` is {order}; expected {len(regions)} numbers, the label value that each of "
            f"the regions {', '.join(regions)} is written with, in this order."
        )
    wrong = [
        f"{name} {own}: {value}" for (name, own), value in zip(regions.items(), order, strict=True) if value not in own
    ]
    if wrong:
        raise UserError(
            f"{path}: `regions_class_order` is {order}, but these regions lack the value they are written with: "
            f"{', '.join(wrong)}."
        )
    return list(order)


def _channels(names: Any, *, path: Path) -> list[str]:
    keys = sorted(names, key=str) if isinstance(names, dict) else []
    if not keys or sorted(map(str, keys), key=int if all(str(key).isdecimal() for key in keys) else str) != [
        str(number) for number in range(len(keys))
    ]:
        raise UserError(f'{path}: `channel_names` is {names}; expected {{"0": "CT"}}, counted from 0.')
    return [str(names[str(number)]) for number in range(len(keys))]


def _listed(entries: Any, *, path: Path) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Files of each case; paths are relative to dataset.json, or absolute and below its folder."""
    root = path.parent
    listed = {}
    try:
        for case, entry in entries.items():
            images, label = entry["images"], entry["label"]
            if not isinstance(images, list) or not images:
                raise TypeError(f"images of {case} is {images}")
            if not is_twin(Path(slashes(images[0])).name):
                files = tuple(inside(root, image, file=path) for image in images)
                listed[str(case)] = files, inside(root, label, file=path)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: `dataset` is no list of cases as {{CASE: {{"images": [...], "label": ...}}}} '
            f"({type(error).__name__}: {error})."
        ) from error
    if not listed:
        raise UserError(f"{path}: `dataset` lists no case. Fill it, or leave it out: the folders then say.")
    return listed


def read_fold(root: Path, *, fold: int) -> dict[str, list[str]]:
    """The lists `train` and `val` of fold number `fold` in splits_final.json."""
    path = root / SPLITS
    if not path.is_file():
        raise UserError(
            f"data.fold={fold}: {root} has no {SPLITS}. Copy nnU-Net's there, or give data.folds=5 too, which draws "
            "folds by data.split_seed."
        )
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f'{path}: expected a list of folds, each {{"train": [...], "val": [...]}} with case names.')
    if not 0 <= fold < len(content):
        raise UserError(
            f"data.fold={fold} is not among the {len(content)} folds of {path}: they are counted from 0 to "
            f"{len(content) - 1}."
        )
    chosen = content[fold]
    lists = {name: chosen.get(name) if isinstance(chosen, dict) else None for name in ("train", "val")}
    if wrong := [name for name, ids in lists.items() if not isinstance(ids, list) or not ids]:
        raise UserError(f"{path}: fold {fold} has no list {' and '.join(wrong)}; expected names of cases.")
    for name, ids in lists.items():
        check_ids_of_list(ids or [], what=f"{path}: fold {fold}, list `{name}`,")
    return {name: list(ids or []) for name, ids in lists.items()}
