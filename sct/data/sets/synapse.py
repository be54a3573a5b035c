"""Synapse as TransUNet prepares it: slices of abdominal CT to train on, volumes to test on, 8 organs.

    train_npz/case0005_slice000.npz ...    test_vol_h5/case0001.npy.h5 ...    train.txt    test_vol.txt

The lists name the files without suffix, one a line; they are in the root, or in `lists/lists_Synapse/` below it as in
TransUNet's repository.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import FileFormat
from sct.data.layouts import no_data
from sct.data.module import SegmentationData
from sct.data.sets.described import inside
from sct.data.sets.synapse_files import SynapseFiles
from sct.errors import UserError
from sct.runtime.plain import read_text

logger = logging.getLogger(__name__)

ORGANS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
SLICES, VOLUMES = "train_npz", "test_vol_h5"
TRAIN_LIST, TEST_LIST = "train.txt", "test_vol.txt"
LIST_FOLDERS = ("", "lists/lists_Synapse")


@dataclass(kw_only=True)
class Synapse(SegmentationData):
    """30 abdominal CTs with 8 organs: the slices of 18 train, the volumes of 12 test, predicted slice by slice.

    val_patients: training patients (four digits) whose slices validate instead, so that no patient is in both. The
    published protocol has no validation set and selects on the test volumes; null does that too.
    """

    val_patients: list[str] | None = field(default_factory=lambda: ["0006", "0024"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.roi_size) != 2:
            raise UserError(f"data.roi_size={self.roi_size} must be 2 numbers: Synapse's training cases are slices.")
        if self.folds is not None:
            raise UserError("data.folds is not for data=synapse, which has slices to train and volumes to test on.")

    @property
    def reads_volumes(self) -> bool:
        return False

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(("background", *ORGANS))

    @property
    def num_channels(self) -> int:
        return 1

    @property
    def format(self) -> FileFormat:
        return SynapseFiles()

    def find_cases(self) -> list[Case]:
        root = Path(self.root)
        files = [inside(root / SLICES, f"{name}.npz", file=root / TRAIN_LIST) for name in listed(root, TRAIN_LIST)]
        files += [inside(root / VOLUMES, f"{name}.npy.h5", file=root / TEST_LIST) for name in listed(root, TEST_LIST)]
        return [Case(self.format.stem(path), path, path) for path in files]

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        slices = [case for case in cases if case.image.parent.name == SLICES]
        volumes = [case for case in cases if case.image.parent.name == VOLUMES]
        patients = sorted({patient(case) for case in slices})
        if both := sorted({patient(case) for case in volumes} & set(patients)):
            logger.warning("tests on patient(s) it trains on, %s: such figures mean nothing", ", ".join(both))
        if self.val_patients is None:
            logger.warning("data.val_patients=null validates on the test volumes: the best weights are chosen on them")
            return {"train": slices, "val": volumes, "test": volumes}
        if not self.val_patients or not set(self.val_patients) < set(patients):
            raise UserError(
                f"data.val_patients={self.val_patients} must be some, not all, of the training patients: {TRAIN_LIST} "
                f"in {self.root} has {', '.join(patients)}. Correct it, or set data.val_patients=null to validate "
                "on the test volumes."
            )
        held = [case for case in slices if patient(case) in self.val_patients]
        kept = [case for case in slices if patient(case) not in self.val_patients]
        return {"train": kept, "val": held, "test": volumes}


def patient(case: Case) -> str:
    """The number of the patient in a case id: 0005 of case0005_slice012."""
    return case.id.removeprefix("case").split("_")[0]


def listed(root: Path, name: str) -> list[str]:
    """The lines of a list, without empty ones; raises `UserError` that says what was expected where."""
    places = [root / folder / name for folder in LIST_FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise no_data(
            "Synapse",
            name="synapse",
            root=root,
            lacks=f"no {name}",
            expected=f"Expected: {SLICES}/case0005_slice000.npz ..., {VOLUMES}/case0001.npy.h5 ..., and the lists\n"
            f"  {TRAIN_LIST} and {TEST_LIST} beside them or in {LIST_FOLDERS[1]}/.\n"
            "  Make them from the raw BTCV download (https://www.synapse.org, project syn3193805) with\n"
            "  python scripts/prepare_synapse.py RAW OUT, and set data.root to OUT.",
        )
    return read_text(path).split()
