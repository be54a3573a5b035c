"""ISIC 2018 Task 1: dermoscopic photographs with the outline of the lesion, in the challenge's own folders."""

from dataclasses import dataclass
from pathlib import Path

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import FileFormat
from sct.data.formats.pictures import Pictures
from sct.data.layouts import no_data
from sct.data.module import SegmentationData
from sct.errors import UserError

IMAGES = "ISIC2018_Task1-2_Training_Input"
MASKS = "ISIC2018_Task1_Training_GroundTruth"


@dataclass(kw_only=True)
class ISIC(SegmentationData):
    """2,594 RGB pictures with one lesion each; case ids are the file names without suffix."""

    split: str | None = "isic2018_1815_261_518"

    @property
    def reads_volumes(self) -> bool:
        return False

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(("background", "lesion"))

    @property
    def num_channels(self) -> int:
        return 3

    @property
    def format(self) -> FileFormat:
        return Pictures(self.num_classes)

    @property
    def scores(self) -> tuple[str, ...]:
        return ("dice", "iou", "accuracy", "sensitivity", "specificity")

    def find_cases(self) -> list[Case]:
        return paired_cases(Path(self.root), file_format=self.format)


def paired_cases(root: Path, *, file_format: FileFormat) -> list[Case]:
    """Images and masks by id. What lacks its other half is left to the check, which names it."""
    images: dict[str, Path] = {}
    for path in sorted((root / IMAGES).glob("*")):
        if file_format.is_image(path):
            other = images.setdefault(file_format.stem(path), path)
            if other != path:
                raise UserError(f"{root / IMAGES} holds both {other.name} and {path.name}. Remove one of them.")
    suffix = file_format.label_suffix
    masks = {path.name.removesuffix(suffix): path for path in (root / MASKS).glob(f"*{suffix}")}
    if not images and not masks:
        raise no_data(
            "ISIC",
            name="isic",
            root=root,
            lacks="neither images nor masks",
            expected=f"Expected: {IMAGES}/ISIC_0000000.jpg ... and\n"
            f"  {MASKS}/ISIC_0000000{suffix} ...\n"
            "  Download the training data and ground truth of Task 1 from\n"
            "  https://challenge.isic-archive.com/data/#2018, unpack both and set data.root to the folder\n"
            "  that holds them.",
        )
    return [
        Case(
            id=name,
            image=images.get(name, root / IMAGES / f"{name}.jpg"),
            label=masks.get(name, root / MASKS / f"{name}{suffix}"),
        )
        for name in sorted(images.keys() | masks.keys())
    ]
