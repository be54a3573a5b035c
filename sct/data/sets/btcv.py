"""BTCV ("Beyond the Cranial Vault") abdominal CT: Synapse's raw layout and MONAI's dataset_0.json."""

import re
from dataclasses import dataclass
from pathlib import Path

from sct.data.cases import Case, LabelMap
from sct.data.layouts import no_data
from sct.data.module import SegmentationData
from sct.data.sets.described import inside, read_json
from sct.errors import UserError

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_veins",
    "pancreas",
    "right_adrenal",
    "left_adrenal",
)


@dataclass(kw_only=True)
class BTCV(SegmentationData):
    """30 abdominal CTs with 13 organs; case ids are the numbers in the file names, such as 0001."""

    split: str | None = "btcv_18_12"

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(("background", *ORGANS))

    @property
    def num_channels(self) -> int:
        return 1

    def find_cases(self) -> list[Case]:
        listed = Path(self.root) / "dataset_0.json"
        return listed_cases(listed) if listed.is_file() else raw_cases(Path(self.root))


def raw_cases(root: Path, *, setting: str = "data.root") -> list[Case]:
    """Cases of RawData/Training; a missing label file is left to the check, which names it.

    setting: what the user gave `root` as, for the message
    """
    training = root / "RawData" / "Training"
    cases = []
    for image in sorted((training / "img").glob("img*.nii.gz")):
        number = _number(image)
        cases.append(Case(number, image, training / "label" / f"label{number}.nii.gz"))
    if not cases:
        raise no_data(
            "BTCV",
            name="btcv",
            root=root,
            setting=setting,
            lacks="no image in either layout",
            expected="Expected: RawData/Training/img/img0001.nii.gz ... and label/label0001.nii.gz ...,\n"
            "  or MONAI's dataset_0.json with imagesTr/ and labelsTr/.\n"
            "  Register at https://www.synapse.org, project syn3193805, unpack RawData.zip and set "
            f"{setting} to the folder that holds RawData.",
        )
    return cases


def listed_cases(path: Path) -> list[Case]:
    """Cases of the keys `training` and `validation` of MONAI's list; the split decides which of them test."""
    try:
        content = read_json(path)
        entries = [entry for key in ("training", "validation") for entry in content.get(key, [])]
        pairs = [(entry["image"], entry["label"]) for entry in entries]
        files = [(inside(path.parent, i, file=path), inside(path.parent, t, file=path)) for i, t in pairs]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a MONAI data list ({type(error).__name__}: {error}). Expected lists `training` "
            "and `validation` of {image, label} with paths relative to the file."
        ) from error
    if not files:
        raise UserError(f"{path}: lists no case under `training` or `validation`.")
    return sorted((Case(_number(image), image, label) for image, label in files), key=lambda case: case.id)


def _number(image: Path) -> str:
    """The case number in a file name, its digits; the whole stem where there are none, or several numbers."""
    stem = image.name.removesuffix(".gz").removesuffix(".nii")
    numbers = re.findall(r"\d+", stem)
    return numbers[0] if len(numbers) == 1 else stem
