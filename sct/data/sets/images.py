"""A folder of images without labels, to pretrain on."""

from dataclasses import dataclass, field
from pathlib import Path

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import images_in
from sct.data.identity import name_cases
from sct.data.module import SegmentationData
from sct.data.splits import split_in_two
from sct.errors import UserError

# of the label maps that are never written: a label map has a name at least beside that of the background
NO_LABELS = LabelMap(("background", "foreground"))


@dataclass(kw_only=True)
class Images(SegmentationData):
    """All medical images in a folder and the folders below it; case ids are their file names, or their paths.

    The share `val_share` of them validates, and the others train. A label map in the folder would be taken for an
    image: name the folder of the images.

    channels: names of the channels of every image
    """

    channels: list[str] = field(default_factory=lambda: ["image"])
    labelled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled:
            raise UserError(
                "data.labelled=true: data=images has no labels. Leave data.labelled out to pretrain on the images, or "
                "choose the data set with the labels: data=msd, data=nnunet, ..."
            )

    @property
    def label_map(self) -> LabelMap:
        return NO_LABELS

    @property
    def num_channels(self) -> int:
        return len(self.channels)

    def find_cases(self) -> list[Case]:
        root, form = Path(self.root), self.format
        found = images_in(root, file_format=form, recursive=True) if root.is_dir() else ()
        files = list(dict.fromkeys(map(form.image_of, found)))
        if not files:
            state = f"holds no {form.name} file ({', '.join(form.suffixes)})" if root.is_dir() else "is no folder"
            raise UserError(f"No images: looked in {root.resolve()} (data.root), which {state}. Give another folder.")
        return name_cases([(file, None) for file in files], root=root, stem=form.stem)

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        return split_in_two(cases, val_share=self.val_share, seed=self.split_seed, patient_pattern=self.patient_pattern)
