"""Any set of pictures with masks of one or more classes: a folder of each, and what the values of a mask mean."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import FileFormat
from sct.data.formats.masks import MASK_ENDINGS, CodedPictures, check_codes, palette_of
from sct.data.module import SegmentationData
from sct.errors import UserError

BACKGROUND = "background"


@dataclass(kw_only=True)
class PictureSet(SegmentationData):
    """Pictures of any size in a folder, and a mask of each in another; case ids are the file names without ending.

    images: folder of the pictures, below root
    masks: folder of the masks, below root
    mask_suffix: what the name of a mask has between the name of its picture and the ending, such as _mask
    values: {class: value in the masks}: grey values or indices of a palette (whole numbers), or colours '#rrggbb'; the
        background is 0, or '#000000', unless it is named
    palette: colours of the palette that predicted masks get; null: those of the first mask, none if it is grey. A
        trained run has them.
    """

    values: dict[str, int | str]
    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    palette: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.roi_size) != 2:
            raise UserError(f"data.roi_size={self.roi_size} must be 2 numbers of pixels, for pictures.")
        check_codes(list(self._codes.values()))

    @cached_property
    def _codes(self) -> dict[str, int | str]:
        """The values by class, background first."""
        black: int | str = "#000000" if any(isinstance(value, str) for value in self.values.values()) else 0
        return {BACKGROUND: black, **self.values}

    @property
    def reads_volumes(self) -> bool:
        return False

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(tuple(self._codes))

    @property
    def num_channels(self) -> int:
        return 3

    @property
    def format(self) -> FileFormat:
        codes = check_codes(list(self._codes.values()))
        return CodedPictures(self.num_classes, codes, self.mask_suffix, tuple(self.palette or ()))

    @property
    def scores(self) -> tuple[str, ...]:
        return ("dice", "iou", "hd95")

    def found(self) -> dict[str, Any]:
        if self.palette is not None:
            return {"palette": self.palette}
        masks = [case.label for case in self.find_cases() if case.label is not None and case.label.exists()]
        return {"palette": palette_of(masks[0]) if masks and not isinstance(self._codes[BACKGROUND], str) else []}

    def find_cases(self) -> list[Case]:
        folders = {key: Path(self.root) / folder for key, folder in (("images", self.images), ("masks", self.masks))}
        for key, folder in folders.items():
            if not folder.is_dir():
                raise UserError(
                    f"No pictures: data.{key}={folder.name} is no folder in {Path(self.root).resolve()} (data.root). "
                    f"Expected {self.images}/ID.jpg ... and {self.masks}/ID{self.format.label_suffix} ..."
                )
        form = self.format
        images = by_name([path for path in sorted(folders["images"].iterdir()) if form.is_image(path)], suffix="")
        files = sorted(path for path in folders["masks"].iterdir() if not path.name.startswith("."))
        masks = by_name([path for path in files if path.suffix.lower() in MASK_ENDINGS], suffix=self.mask_suffix)
        if not images:
            raise UserError(
                f"{folders['images']}: holds no picture ({' or '.join(form.suffixes)}). Correct data.images."
            )
        expected = folders["masks"]
        return [
            Case(name, image, masks.get(name, expected / f"{name}{form.label_suffix}"))
            for name, image in images.items()
        ]


def by_name(paths: list[Path], *, suffix: str) -> dict[str, Path]:
    """Files by their names without `suffix` and ending; files without the suffix are left out."""
    found: dict[str, Path] = {}
    for path in paths:
        if not path.stem.endswith(suffix):
            continue
        other = found.setdefault(path.stem.removesuffix(suffix), path)
        if other != path:
            raise UserError(f"{path.parent} holds both {other.name} and {path.name}. Remove one of them.")
    return found
